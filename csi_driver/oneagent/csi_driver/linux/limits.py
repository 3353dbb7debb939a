"""Explanations of errors of the kernel that mean more than their text says: which limit was hit.

`ENOSPC` of mount(2) can mean the number of mounts, `EMFILE` the device numbers of the whole node, and a disk without a
free inode is full, too. Explanations look at the limits in question, so they are made only after an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_MOUNT_MAX: Final = Path("/proc/sys/fs/mount-max")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_FILE_SYSTEMS: Final = Path("/proc/filesystems")

_FEW_INODES: Final = 1000
_FEW_MIB: Final = 64

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
"""Errors that removing files helps against, whichever limit they mean."""

_OF_FILES: Final = {
    errno.EDQUOT: "a quota of the disk is used up, of bytes or of inodes",
    errno.EMFILE: "this process has as many files open as its limit allows (RLIMIT_NOFILE)",
    errno.ENFILE: "the node has as many files open as fs.file-max allows",
    errno.EMLINK: "the directory has as many entries, or the file as many names, as its file system allows",
    errno.ENOMEM: "memory is short: the container's limit, or that of the node",
    errno.EROFS: "the file system is mounted read-only, maybe after an error: see the kernel's log",
}
_OF_MOUNTS: Final = _OF_FILES | {
    errno.EACCES: "a security module (SELinux, AppArmor) refused it: see the audit log",
    errno.EBUSY: "another mount uses the volume's upper or work directory",
    errno.EINVAL: "the kernel can't use the directories as layers of an overlay: its log (dmesg) has the reason",
    errno.EMFILE: "the node has no device number left for another overlay; 1,048,575 such mounts are possible",
    errno.ENODEV: "this kernel has no overlay file system: load the module overlay",
    errno.EOPNOTSUPP: "the file system of the data directory lacks what overlay needs of it",
    errno.EPERM: "it is not permitted: the container has to be privileged, and no security module may refuse it",
    errno.ESTALE: "the volume's upper directory belongs to other layers (overlay's index)",
}


def explain_file(error: OSError) -> str:
    """Explain an error of a file operation; empty if its own text is enough."""
    if error.errno == errno.ENOSPC:
        return _explain_full_disk(os.fsdecode(error.filename or "/"))
    return _OF_FILES.get(error.errno or 0, "")


def explain_mount(error: OSError, directory: str, options: Sequence[str]) -> str:
    """Explain an error of mount(2) of an overlay on the disk of `directory`, with these options of the caller's."""
    if error.errno in {errno.EINVAL, errno.EACCES, errno.EPERM} and options:
        return _explain_options(options)
    if error.errno == errno.ENOSPC:
        return _explain_mount_limit() or _explain_full_disk(directory)
    return _OF_MOUNTS.get(error.errno or 0, "")


def _explain_options(options: Sequence[str]) -> str:
    """Explain refused options; SELinux's labels are the only ones that a caller may name."""
    named = ", ".join(options)
    if "selinuxfs" not in _read(_FILE_SYSTEMS).split():
        return f"the mount option {named} needs SELinux, which this kernel has not enabled"
    return f"the mount option {named} is refused: SELinux does not know the label, or its policy does not allow it"


def _explain_mount_limit() -> str:
    try:
        with _MOUNTS.open("rb") as table:
            mounts = sum(1 for _ in table)
        limit = int(_read(_MOUNT_MAX))
    except (OSError, ValueError):
        return ""
    # A mount may come with its copies in other mounts.
    return f"{mounts} mounts are there, and fs.mount-max allows {limit}" if mounts > 0.9 * limit else ""


def _explain_full_disk(path: str) -> str:
    """Explain ENOSPC of a file: bytes, inodes, or something else."""
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    try:
        status = os.statvfs(path)
    except OSError:
        return ""
    free_mib = status.f_bavail * status.f_frsize >> 20
    # What failed may have been removed again since.
    if status.f_files and status.f_favail < _FEW_INODES:
        return f"{status.f_favail} of the disk's {status.f_files} inodes are free"
    if free_mib < _FEW_MIB:
        return f"{free_mib} MiB of the disk are free"
    return f"the disk has {free_mib} MiB and {status.f_favail} inodes free: a quota, or a limit of its file system"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
