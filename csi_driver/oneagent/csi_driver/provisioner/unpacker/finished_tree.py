"""Checks the tree that a child has made, and makes its hard links, once the child has ended.

The child may have made anything of its directory, so nothing in it is followed, and no file in it is opened. It may
write to no file that another version shares, so it only lists the links to such files. They are made here: both ends
are found beneath their trees and without symbolic links, and a file that can't have another name is copied.

The list is read line by line, so that its memory does not stay with the provisioner.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from oneagent.common import typed_json, unpack
from oneagent.common.unpack import dedup
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.provisioner.unpacker.messages import Link

MAX_ENTRIES: Final = 2 * unpack.UnpackLimits().entries
"""Files and links, and the directories above them."""
MAX_LEVELS: Final = 70
"""Packages may have 64."""
_MAX_LINE_BYTES: Final = 32 << 10
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODE_FAULTS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_BENEATH: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS


def check(tree: Path, root: Path) -> None:
    """Refuse a tree that no package becomes, or one whose directory `root` is reached by a link."""
    for directory in (root, *root.parents):
        if not stat.S_ISDIR(os.lstat(directory).st_mode):
            raise _malformed("the agent's directory is a link or a file")
        if directory == tree:
            break
    with _opened(str(tree)) as top:
        _check_directory(top, 0, 0)


def make_links(tree: Path, links: Path, existing: Collection[str]) -> int:
    """Make the links of the list, in its order; return the bytes that are shared with other trees.

    Sources are in one of the trees `existing`, or in `tree` itself. Raises `PackageError`.
    """
    made = shared = 0
    with ExitStack() as stack:
        trees = {"": stack.enter_context(_opened(str(tree)))}
        for link in _read(links):
            made += 1
            if made > MAX_ENTRIES or link.tree not in ("", *existing):
                raise _malformed("the list of links is too long, or names another tree")
            if link.tree not in trees:
                trees[link.tree] = stack.enter_context(_opened(link.tree))
            with _find_source(trees[link.tree], link) as source:
                size = _make_link(source, trees[""], link.path)
            shared += size if link.tree else 0
    return shared


def _check_directory(directory: int, level: int, seen: int) -> int:
    """Check everything below an open directory; return the number of entries seen so far."""
    if level > MAX_LEVELS:
        raise _malformed(f"there are more than {MAX_LEVELS} levels")
    with os.scandir(directory) as entries:
        for entry in entries:
            seen += 1
            if seen > MAX_ENTRIES:
                raise _malformed(f"there are more than {MAX_ENTRIES:,} entries")
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                inner = os.open(entry.name, _DIRECTORY, dir_fd=directory)
                try:
                    seen = _check_directory(inner, level + 1, seen)
                finally:
                    os.close(inner)
            elif not stat.S_ISLNK(mode) and (not stat.S_ISREG(mode) or mode & (stat.S_ISUID | stat.S_ISGID)):
                raise _malformed("there is a device, a pipe, a socket or a set-uid file")
    return seen


def _read(links: Path) -> Iterator[Link]:
    with links.open("rb") as file:
        while line := file.readline(_MAX_LINE_BYTES):
            try:
                yield typed_json.decode(line, Link)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise _malformed("the list of links can't be read") from error


@contextmanager
def _find_source(tree: int, link: Link) -> Iterator[int]:
    """Find the file that gets another name; a descriptor that it can't be read by."""
    try:
        source = syscalls.openat2(tree, link.source, os.O_PATH | os.O_NOFOLLOW, _BENEATH)
    except OSError as error:
        if link.tree and isinstance(error, FileNotFoundError):
            raise _removed() from error
        raise _malformed("a link leads to no file") from error
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise _malformed("a link leads to no file")
        yield source
    finally:
        os.close(source)


def _make_link(source: int, tree: int, path: str) -> int:
    """Give the file another name in the tree, or make a copy; return the bytes of a link."""
    above, _, name = path.rpartition("/")
    status = os.fstat(source)
    try:
        directory = syscalls.openat2(tree, above or ".", os.O_PATH | os.O_DIRECTORY, _BENEATH)
        try:
            if _link(source, name, directory):
                return status.st_size
            _copy(source, name, directory, status)
        finally:
            os.close(directory)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _NODE_FAULTS:
            raise unpack.UnpackFailedError.from_os_error("a file cannot be shared", error) from error
        raise _malformed("a link can't be made") from error
    return 0


def _link(source: int, name: str, directory: int) -> bool:
    """Give the file another name; False if it can't have one: too many links, or the file system has none."""
    try:
        os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _copy(source: int, name: str, directory: int, status: os.stat_result) -> None:
    with open(f"/proc/self/fd/{source}", "rb", buffering=0) as existing:
        copy = os.open(name, _NEW, 0o600, dir_fd=directory)
        try:
            dedup.copy_prefix(existing.fileno(), copy, status.st_size)
            os.fchmod(copy, stat.S_IMODE(status.st_mode))
        finally:
            os.close(copy)


@contextmanager
def _opened(tree: str) -> Iterator[int]:
    try:
        descriptor = os.open(tree, _DIRECTORY)
    except FileNotFoundError as error:
        raise _removed() from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _removed() -> unpack.UnpackFailedError:
    """Garbage collection may remove a version at any time. The package is good, so this is not ENOENT."""
    return unpack.UnpackFailedError("a version was removed whose files are shared", errno.ESTALE)


def _malformed(what: str) -> unpack.UnpackProcessError:
    return unpack.UnpackProcessError(f"the process that unpacks the package left a wrong tree: {what}")
