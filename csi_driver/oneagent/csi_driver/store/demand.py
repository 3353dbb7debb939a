"""The server's word to the provisioner that a pod waits for a version: an empty file of the version's name.

A version that nobody waits for yet may be downloaded a little later, when other nodes have theirs; one that a pod
waits for may not. The word is a hint: one that is lost costs time, and one that is left over costs nothing. So
nothing of it is synced, and what can't be written is not.
"""

from __future__ import annotations

import contextlib
import os

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir


def mark(folder: DataDir, version: Version) -> None:
    """A pod waits for this version; for none if it is not known yet which."""
    if version:
        with contextlib.suppress(OSError):
            os.close(os.open(folder.demand_marker(version), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def list_versions(folder: DataDir) -> set[Version]:
    """The versions that somebody has waited for."""
    try:
        return {Version(name) for name in os.listdir(folder.demand)}
    except OSError:
        return set()


def clear(folder: DataDir, version: Version) -> None:
    """The version is there."""
    with contextlib.suppress(OSError):
        os.unlink(folder.demand_marker(version))
