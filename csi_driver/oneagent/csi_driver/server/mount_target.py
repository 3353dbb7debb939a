"""Target paths: opened without following symlinks, mounted, unmounted and removed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.common.injection.contract import WRITABLE_DIRECTORIES
from oneagent.csi_driver.data_dir import TargetPath, Volume
from oneagent.csi_driver.linux import mount_table, syscalls
from oneagent.csi_driver.server.errors import InternalError, InvalidRequestError, UnavailableError

log = logging.getLogger(__name__)

CONFIG_DIRECTORY: Final = "agent/conf"
IDENTITY_FILE: Final = f"{CONFIG_DIRECTORY}/container.conf"
_NO_SYMLINKS: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The mount of a view. `files` and `directories` are created below the upper layer first."""

    volume: Volume
    options: str
    flags: int
    files: tuple[tuple[str, bytes], ...]
    directories: tuple[str, ...] = ()


class MountTarget:
    """One target path with its parent directory held open; all work on the target goes through that."""

    def __init__(self, path: TargetPath, parent: int, name: str) -> None:
        self.path = path
        self._parent = parent
        self._name = name
        self._place = f"/proc/self/fd/{parent}/{name}"

    def __enter__(self) -> MountTarget:
        return self

    def __exit__(self, *_: object) -> None:
        if self._parent >= 0:
            os.close(self._parent)

    @property
    def reachable(self) -> bool:
        """Whether the parent directory, which kubelet makes, is there."""
        return self._parent >= 0

    def mounted(self) -> bool:
        """Whether anything is mounted at the target."""
        if not self.reachable:
            return False
        try:
            # Most targets aren't there yet, which this tells sooner than statx by way of ctypes.
            os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
            return syscalls.is_mount_root(self._place)
        except FileNotFoundError:
            return False

    def real_path(self) -> str:
        """The target as the mount table names it, with symlinks above the target root resolved."""
        return os.readlink(f"/proc/self/fd/{self._parent}") + "/" + self._name

    def identity(self) -> tuple[int, int]:
        """Device and inode of what is visible at the target: equal to those of a bind mount's source."""
        status = os.stat(self._place)
        return status.st_dev, status.st_ino

    def make(self) -> None:
        """Create the target directory, unless it is there."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._name, 0o755, dir_fd=self._parent)

    def make_empty(self, *, read_only: bool) -> None:
        """What a pod gets instead of a view; it may be there already."""
        self.make()
        if read_only:
            with self._opened() as directory:
                for name in WRITABLE_DIRECTORIES:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=directory)

    def mount_view(self, plan: ViewPlan, failpoint: Callable[[str], None]) -> None:
        """Write the pod's files into the upper layer and mount; `OSError` if it can't be done."""
        write_files(plan.volume.upper, plan.files)
        for name in plan.directories:
            os.mkdir(f"{plan.volume.upper}/{name}", 0o755)
        failpoint("config written")
        self.make()
        failpoint("target made")
        self._mount("overlay", "overlay", plan.flags, plan.options)

    def bind(self, source: Path, flags: int) -> None:
        """Mount a directory here as it is. The kernel takes a bind mount's flags by a second call only."""
        self.make()
        self._mount(str(source), "", syscalls.MS_BIND)
        try:
            syscalls.mount("", self._place, "", syscalls.MS_BIND | syscalls.MS_REMOUNT | flags)
        except OSError:
            syscalls.umount2(self._place)
            raise

    def _mount(self, source: str, fs_type: str, flags: int, options: str = "") -> None:
        """mount(2) on the directory itself: it would follow a symlink that has taken the directory's place."""
        try:
            with self._opened() as directory:
                syscalls.mount(source, f"/proc/self/fd/{directory}", fs_type, flags, options)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        how = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(self._name, how, dir_fd=self._parent)
        try:
            yield directory
        finally:
            os.close(directory)

    def unmount_and_remove(self, failpoint: Callable[[str], None], *, leftovers: bool = False) -> None:
        """Unmount all that is mounted here and remove the directory; `InternalError` if the kernel refuses.

        `leftovers`: remove its contents too. Otherwise a directory that is not empty stays.
        """
        if not self.reachable:
            return
        try:
            # Mounts never stack; should some older program have stacked them, all of them go.
            while self.mounted():
                syscalls.umount2(self._place)
        except OSError as error:
            hint = "; a process still uses it" if error.errno == errno.EBUSY else ""
            raise InternalError(f"{self.path} can't be unmounted: {error.strerror}{hint}") from error
        failpoint("unmounted")
        try:
            os.rmdir(self._name, dir_fd=self._parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise InternalError(f"{self.path} can't be removed: {error.strerror}") from error
            if leftovers:
                self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove what a pod wrote into its empty view, once the mount table says that nothing is mounted there."""
        if mount_table.at_or_below(mount_table.read(), self.real_path()):
            raise InternalError(f"{self.path} can't be removed: something is mounted below it")
        try:
            shutil.rmtree(self._name, dir_fd=self._parent)
        except OSError as error:
            raise InternalError(f"{self.path} can't be removed: {error.strerror} ({error.filename})") from error


def open_below(root_path: str, target: TargetPath) -> MountTarget:
    """Open a target's parent directory without following a symlink; see `MountTarget`."""
    parent, _, name = target.rpartition("/")
    root = -1
    descriptor = -1
    try:
        if not target.startswith(f"{root_path}/"):
            raise FileNotFoundError(errno.ENOENT, "not below the target root", target)
        root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        below = parent[len(root_path) :].lstrip("/") or "."
        descriptor = syscalls.openat2(
            root,
            below,
            os.O_PATH | os.O_DIRECTORY,
            _NO_SYMLINKS,
        )
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EXDEV}:
            raise InvalidRequestError("target_path", f"{target!r} leads over a symlink") from error
        raise UnavailableError(f"target {target} can't be reached: {error.strerror}") from error
    finally:
        if root >= 0:
            os.close(root)
    return MountTarget(target, descriptor, name)


def write_files(upper: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Write the pod's configuration into an upper layer that no pod has seen yet.

    One that a pod has had is never written to by us again: the pod may have put symlinks in it. The file that every
    view has is there already (see `volume_dir_pool`); the mode of others is set by fchmod, since the process-wide umask
    could cut it.
    """
    for name, content in files:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(f"{upper}/{name}", flags, 0o600)
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{upper}/{name}")
            if name != IDENTITY_FILE:
                os.fchmod(descriptor, 0o644)
        except OSError as error:
            # A disk without a free block: an agent that can't tell its pod's name is better than none.
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            os.unlink(f"{upper}/{name}")
            log.warning("no room for a view's configuration", extra=logs.facts(file=f"{upper}/{name}"))
        finally:
            os.close(descriptor)
