"""Target paths: opened without following symlinks, mounted, unmounted and removed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import logs
from oneagent.common.agents.pod_files import PodFiles
from oneagent.common.injection.contract import AGENT_SUBDIRECTORY, VIEW_FILES_DIRECTORY
from oneagent.csi_driver.data_dir import TargetPath, Volume
from oneagent.csi_driver.linux import mount_table, syscalls, tree_walker
from oneagent.csi_driver.server import volume_files
from oneagent.csi_driver.server.errors import InternalError, InvalidRequestError, UnavailableError

log = logging.getLogger(__name__)

_NO_SYMLINKS: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS


class MountRefusedError(OSError):
    """mount(2) failed, whose errors mean other limits than those of files."""


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The mount of a view. The pod's `files`, and `directories`, are created below the upper layer first."""

    volume: Volume
    options: str
    flags: int
    files: Iterable[tuple[str, str]]
    """Paths below the directory of the pod's files, and texts, rendered one by one"""
    directories: tuple[str, ...] = ()


class MountTarget:
    """One target path with its parent directory held open; all work on the target goes through that."""

    def __init__(self, path: TargetPath, parent: int, name: str) -> None:
        self.path = path
        self._parent = parent
        self._name = name
        self._proc_path = f"/proc/self/fd/{parent}/{name}"

    def __enter__(self) -> MountTarget:
        return self

    def __exit__(self, *_: object) -> None:
        if self._parent >= 0:
            os.close(self._parent)

    @property
    def is_reachable(self) -> bool:
        """True if the parent directory, which kubelet creates, exists."""
        return self._parent >= 0

    def is_mounted(self) -> bool:
        """Return whether anything is mounted at the target."""
        if not self.is_reachable:
            return False
        try:
            # Most targets do not exist yet; os.stat detects that faster than statx through ctypes.
            os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
            return syscalls.is_mount_root(self._proc_path)
        except FileNotFoundError:
            return False

    def real_path(self) -> str:
        """Return the path in the mount table, with symlinks above the target root resolved."""
        return os.readlink(f"/proc/self/fd/{self._parent}") + "/" + self._name

    def identity(self) -> tuple[int, int]:
        """Return device and inode of the target: those of the source, for a bind mount."""
        status = os.stat(self._proc_path)
        return status.st_dev, status.st_ino

    def create(self) -> None:
        """Create the target directory, unless it exists."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._name, 0o755, dir_fd=self._parent)

    def create_empty(self, files: PodFiles, *, read_only: bool, user_namespace: bool = False) -> None:
        """Create the empty view, or complete it: the pod's files, and the inert library for `LD_PRELOAD`."""
        with self._plain(files) as directory:
            profile = files.profile
            library, writable = profile.preload_library, profile.writable_directories
            if user_namespace or profile.mounts_in_view:
                volume_files.write_mount_files(directory, profile.mount_files)
            if not user_namespace:
                volume_files.write_inert_agent(directory, library, writable if read_only else ())
                return
            with (
                volume_files.leaving_what_is_there(),
                volume_files.open_directory(AGENT_SUBDIRECTORY, directory) as agent,
            ):
                volume_files.write_mount_files(agent, profile.mount_files)
                volume_files.write_inert_agent(agent, library, writable)

    def create_plain(self, files: PodFiles) -> None:
        """Create a directory with the pod's files only, or complete it."""
        with self._plain(files):
            pass

    @contextlib.contextmanager
    def _plain(self, files: PodFiles) -> Iterator[int]:
        with _naming(self.path), volume_files.open_directory(self._name, self._parent) as directory:
            volume_files.write_plain(directory, files)
            yield directory

    def mount_view(self, plan: ViewPlan, failpoint: Callable[[str], None]) -> None:
        """Write the pod's files into the new upper layer and mount; `OSError` on failure."""
        place = f"{plan.volume.upper}/{VIEW_FILES_DIRECTORY}"
        with _naming(place), _opened(place) as directory:
            volume_files.write(directory, plan.files)
        for name in plan.directories:
            os.mkdir(f"{plan.volume.upper}/{name}", 0o755)
        failpoint("config written")
        self.create()
        failpoint("target created")
        self._mount("overlay", "overlay", plan.flags, plan.options)

    def mount_binds(self, plan: ViewPlan, agent: str, failpoint: Callable[[str], None]) -> None:
        """Write the pod's files into the new upper layer, and bind this and the agent, for a pod with a user namespace.

        The runtime asks for an idmapped mount of each, which the kernel refuses for an overlay. Both are read-only, so
        that no pod can write to what others share.
        """
        place = f"{plan.volume.upper}/{VIEW_FILES_DIRECTORY}"
        with _naming(place), _opened(place) as directory:
            volume_files.write(directory, plan.files)
        os.mkdir(f"{plan.volume.upper}/{AGENT_SUBDIRECTORY}", 0o755)
        failpoint("config written")
        self.create()
        failpoint("target created")
        with self._open() as directory:
            self._bind_read_only(plan.volume.upper, directory, plan.flags)
        failpoint("files mounted")
        # Opened again: what was opened before lies below the mount.
        with self._open() as directory, _opened(AGENT_SUBDIRECTORY, directory) as place_of_agent:
            self._bind_read_only(agent, place_of_agent, plan.flags)

    def _bind_read_only(self, source: str, directory: int, flags: int) -> None:
        try:
            syscalls.bind_read_only(source, directory, flags)
        except OSError as error:
            raise MountRefusedError(error.errno, error.strerror, self.path) from error

    def bind(self, source: Path, flags: int) -> None:
        """Bind-mount a directory here. The kernel applies a bind mount's flags in a second call only."""
        self.create()
        self._mount(str(source), "", syscalls.MS_BIND)
        try:
            syscalls.mount("", self._proc_path, "", syscalls.MS_BIND | syscalls.MS_REMOUNT | flags)
        except OSError:
            syscalls.umount2(self._proc_path)
            raise

    def _mount(self, source: str, fs_type: str, flags: int, options: str = "") -> None:
        """Call mount(2) on the open directory: on a path it would follow a symlink that replaced the directory."""
        with self._open() as directory:
            try:
                syscalls.mount(source, f"/proc/self/fd/{directory}", fs_type, flags, options)
            except OSError as error:
                raise MountRefusedError(error.errno, error.strerror, self.path) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            directory = os.open(self._name, flags, dir_fd=self._parent)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error
        try:
            yield directory
        finally:
            os.close(directory)

    def unmount_and_remove(self, failpoint: Callable[[str], None], *, trash_entry: str = "") -> None:
        """Unmount everything here and remove the directory; `InternalError` if the kernel refuses.

        A directory that is not empty becomes this entry of the trash; without one it stays.
        """
        if not self.is_reachable:
            return
        try:
            # Our mounts never stack; if another program stacked some, all are unmounted.
            while self.is_mounted():
                self._unmount()
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
            if trash_entry:
                self._discard(trash_entry)

    def _unmount(self) -> None:
        """Unmount the topmost mount, and first the agent in it, if that is a mount of its own; all of it or nothing."""
        try:
            syscalls.umount2(self._proc_path)
        except OSError as error:
            if error.errno != errno.EBUSY or not self._has_own_agent():
                raise
            self._unmount_with_agent()

    def _has_own_agent(self) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return syscalls.is_mount_root(f"{self._proc_path}/{AGENT_SUBDIRECTORY}")
        return False

    def _unmount_with_agent(self) -> None:
        agent = f"{self._proc_path}/{AGENT_SUBDIRECTORY}"
        with _closing(syscalls.open_tree(agent)) as copy:
            syscalls.umount2(agent)
            try:
                syscalls.umount2(self._proc_path)
            except OSError:
                with self._open() as directory, _opened(AGENT_SUBDIRECTORY, directory) as place:
                    syscalls.move_mount(copy, place)
                raise

    def _discard(self, trash_entry: str) -> None:
        """Discard an empty view with what its pod wrote, if the mount table has no mount there."""
        if mount_table.at_or_below(mount_table.read(), self.real_path()):
            raise InternalError(f"{self.path} can't be removed: something is mounted below it")
        try:
            try:
                self._move_to(trash_entry)
            except OSError as error:
                # The trash is on another file system, which may also be full or read-only.
                log.info("view deleted in place", extra=logs.fields(target=self.path, reason=error.strerror))
                tree_walker.remove(self._name, self._parent)
        except OSError as error:
            raise InternalError(f"{self.path} can't be removed: {error.strerror} ({error.filename})") from error

    def _move_to(self, trash_entry: str) -> None:
        """Move the target by one rename, however large it is. A container sees trash and target in two mounts."""
        try:
            os.rename(self._name, trash_entry, src_dir_fd=self._parent)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            trash, name = os.path.split(trash_entry)
            with _opened(trash) as there, _opened(".", self._parent) as here:
                if os.fstat(there).st_dev != os.fstat(here).st_dev:
                    raise
                with _closing(syscalls.open_in_mount(there, here)) as entry_parent:
                    os.rename(self._name, name, src_dir_fd=here, dst_dir_fd=entry_parent)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Give errors this path: those of the paths below an open directory name no file system."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(path: str, parent: int | None = None) -> contextlib.AbstractContextManager[int]:
    return _closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent))


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
            raise InvalidRequestError("target_path", f"{target!r} contains a symlink") from error
        raise UnavailableError(f"target {target} can't be reached: {error.strerror}") from error
    finally:
        if root >= 0:
            os.close(root)
    return MountTarget(target, descriptor, name)
