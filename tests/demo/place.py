"""Where a demonstration keeps everything: one folder, which is gone afterwards with all that is mounted in it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oneagent.csi_driver import data_dir
from oneagent.csi_driver.linux import mount_table, syscalls
from oneagent.csi_driver.server import overlay

_LONGEST: Final = 60
"""Socket paths may have 107 characters; the longest one here is the registration socket's."""
_MNT_DETACH: Final = 2


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """An empty folder below build/, or in the machine's temporary folder where that doesn't do."""
    build = Path("build").absolute()
    build.mkdir(exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="run-", dir=build if _is_usable(build) else None)).resolve()
    try:
        if not _can_hold_views(place):
            syscalls.mount("tmpfs", str(place), "tmpfs", 0, "mode=755")
        yield place
    finally:
        unmount_all(place)
        shutil.rmtree(place)


def _is_usable(build: Path) -> bool:
    with contextlib.suppress(data_dir.UnsafeNameError):
        data_dir.DataDir(build.resolve())
        return len(str(build.resolve())) + len("/run-12345678") <= _LONGEST
    return False


def _can_hold_views(place: Path) -> bool:
    """Overlay's upper layer can't lie on another overlay, as a container's root file system is one."""
    trial = place / "trial"
    for name in ("lower", "upper", "work", "target"):
        (trial / name).mkdir(parents=True)
    options = f"lowerdir={trial}/lower,upperdir={trial}/upper,workdir={trial}/work"
    if overlay.in_user_namespace(Path("/proc/self/uid_map").read_text()):
        options += ",userxattr"
    try:
        syscalls.mount("overlay", f"{trial}/target", "overlay", 0, options)
    except OSError:
        return False
    else:
        syscalls.umount2(f"{trial}/target")
        return True
    finally:
        shutil.rmtree(trial)


def unmount_all(place: Path) -> None:
    """Unmount everything at or below the folder."""
    for mount in reversed(mount_table.at_or_below(mount_table.read(), str(place))):
        syscalls.umount2(mount.target, _MNT_DETACH)
