"""Errors of `oneagent-csi`, one line each.

CommandError   a command could not do its work; `reason` is a CamelCase word for programs
"""

from __future__ import annotations

import errno
import os

from oneagent.csi_driver.data_dir import DataDir


class CommandError(Exception):
    def __init__(self, reason: str, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.reason, self.exit_code = reason, exit_code


def explain_access(error: OSError, data: DataDir) -> str:
    """Return what to do about a missing right or a wrong directory; empty for other errors."""
    if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
        return "; run this as root, or in the container of the driver's server"
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not data.root.is_dir():
        return "; set --data-dir to the driver's data directory, which is /data in its containers"
    return ""
