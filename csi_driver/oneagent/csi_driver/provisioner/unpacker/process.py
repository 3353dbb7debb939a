"""Runs the process that unpacks a package, and takes over what it has made.

The process has no rights but to fill one directory (see `child`), and all its memory goes with it. It may do anything
with that directory, so the parent looks at it only after the process has ended, and as at hostile input.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from oneagent.common import fsync, typed_json, unpack
from oneagent.common.unpack import agent_layout, file_manifest
from oneagent.csi_driver import store
from oneagent.csi_driver.linux import landlock, seccomp
from oneagent.csi_driver.provisioner.unpacker import finished_tree, messages
from oneagent.csi_driver.provisioner.unpacker.messages import Existing, Failure, PackageContent, Request, Size, Unpacked

log = logging.getLogger(__name__)

COMMAND: Final = (sys.executable, "-I", "-X", "utf8", "-m", "oneagent.csi_driver.provisioner.unpacker.child")
MAX_SECONDS: Final = 900.0
"""Time of a child; with a third of a CPU an agent takes half a minute."""
MAX_MANIFEST_BYTES: Final = 32 << 20
_POLL_MILLISECONDS: Final = 10
_EXIT_SECONDS: Final = 5.0
_MESSAGE_LENGTH: Final = 500

_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}
"""Other arenas reserve 64 MiB each of the address space, which is limited."""
_REPORTED_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        unpack.CorruptPackageError,
        unpack.UnsafePackageError,
        unpack.PackageTooLargeError,
        unpack.UnsupportedPackageError,
        unpack.NotAnAgentError,
    )
}

_Expected = TypeVar("_Expected", Size, Unpacked)


@dataclass(frozen=True, slots=True)
class UnpackedTree:
    """A complete and durable agent, and its file manifest in a file of its own."""

    root: Path
    manifest: Path
    unpacked_bytes: int
    shared_bytes: int

    def store_manifest(self, path: Path) -> None:
        """Move the file manifest to its place, durably."""
        self.manifest.rename(path)
        store.sync_directory(path.parent)


class Unpacker:
    """Unpacks packages, each in a process of its own. Thread-safe."""

    def __init__(
        self, *, threads: int | None = None, command: Sequence[str] = COMMAND, max_seconds: float = MAX_SECONDS
    ) -> None:
        self._threads = threads
        self._command = command
        self._max_seconds = max_seconds
        if not landlock.version() or not seccomp.is_supported(os.uname().machine):
            log.warning("packages unpacked with fewer restrictions: this kernel has no Landlock, or no known calls")

    def unpack(
        self,
        package: PackageContent,
        scratch: Path,
        existing: Sequence[Existing],
        *,
        cancelled: Callable[[], bool],
        make_room: Callable[[int], None],
        free_bytes: int = 0,
    ) -> UnpackedTree:
        """Unpack into the new directory `scratch`; `make_room` gets the bytes that the tree will take.

        Up to `free_bytes` may be written before, in addition to those that `make_room` gets: so an image is read once.
        Raises `PackageError`, `OSError`, and the errors of `make_room`. The caller removes `scratch`.
        """
        tree, manifest, links = scratch / "tree", scratch / "manifest.json", scratch / "links"
        scratch.mkdir(mode=0o700)
        tree.mkdir()
        tree.chmod(file_manifest.DIRECTORY_MODE)
        with _opened(package.files) as files, manifest.open("xb") as manifest_file, links.open("xb") as links_file:
            outputs = manifest_file.fileno(), links_file.fileno()
            request = Request(
                *(os.getpid(), package.kind, files, str(tree), *outputs, self._threads, free_bytes, tuple(existing))
            )
            with _Child(self._command, (*files, *outputs), cancelled, self._max_seconds) as child:
                child.send(msgspec.json.encode(request))
                make_room(child.receive(Size).unpacked_size)
                child.send(b"")
                result = child.receive(Unpacked)
                child.finish()
            os.fsync(manifest_file.fileno())
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            raise unpack.PackageTooLargeError(f"its file manifest is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
        if result.root not in ("", agent_layout.NESTED):
            raise unpack.UnpackProcessError("the process that unpacks the package named another directory")
        root = tree / result.root
        finished_tree.check(tree, root)
        shared = finished_tree.make_links(tree, links, {version.tree for version in existing})
        if links.stat().st_size:
            _sync(root)
        return UnpackedTree(root, manifest, result.unpacked_bytes, shared)


class _Child:
    """The running process. It is killed on leaving, and when the install is cancelled."""

    def __init__(
        self, command: Sequence[str], descriptors: Sequence[int], cancelled: Callable[[], bool], max_seconds: float
    ) -> None:
        self._cancelled = cancelled
        self._deadline = time.monotonic() + max_seconds
        self._output = bytearray()
        self._read = 0
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            pass_fds=descriptors,
            cwd="/",
            env=_ENVIRONMENT,
        )

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        # A child that has ended is found when it should answer.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")

    def receive(self, expected: type[_Expected]) -> _Expected:
        """Return the next answer; the `PackageError` that it reports otherwise."""
        line = self._read_line()
        try:
            answer = typed_json.decode(line, messages.Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # An interpreter's traceback, for example: its last line has the reason.
            self._output[:0] = line + b"\n"
            raise self._broken(_describe(self._wait(), self._output)) from error
        if isinstance(answer, Failure):
            raise _rebuild(answer)
        if not isinstance(answer, expected):
            raise self._broken("it answered in the wrong order")
        return answer

    def finish(self) -> None:
        """Wait for the end of a child that has done its work."""
        if code := self._wait():
            raise self._broken(_describe(code, self._output))

    def _wait(self) -> int:
        """Wait a short time for the end of a child; return its exit code."""
        self._deadline = min(self._deadline, time.monotonic() + _EXIT_SECONDS)
        while self._fill():
            pass
        return self._process.wait()

    def _read_line(self) -> bytes:
        while (end := self._output.find(b"\n")) < 0:
            if not self._fill():
                raise self._broken(_describe(self._process.wait(), self._output))
        line = bytes(self._output[:end])
        del self._output[: end + 1]
        return line

    def _fill(self) -> bool:
        """Wait for output and add it; False at its end. Raises if the install is cancelled or takes too long."""
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        while True:
            if self._cancelled():
                raise unpack.UnpackCancelledError("unpacking was cancelled")
            if time.monotonic() > self._deadline:
                raise self._broken("it took too long")
            if poll.poll(_POLL_MILLISECONDS):
                break
        data = os.read(self._process.stdout.fileno(), messages.MAX_OUTPUT_BYTES)
        self._output += data
        self._read += len(data)
        if self._read > messages.MAX_OUTPUT_BYTES:
            raise self._broken("it wrote too much")
        return bool(data)

    def _broken(self, reason: str) -> unpack.UnpackProcessError:
        return unpack.UnpackProcessError(f"the process that unpacks the package failed: {reason}")


@contextlib.contextmanager
def _opened(files: Sequence[Path]) -> Iterator[tuple[int, ...]]:
    """Open the package for the child, which could not: users' files may be closed to root without capabilities."""
    with contextlib.ExitStack() as stack:
        try:
            descriptors = tuple(stack.enter_context(file.open("rb", buffering=0)).fileno() for file in files)
        except OSError as error:
            raise unpack.UnpackFailedError.from_os_error("the package cannot be read", error) from error
        yield descriptors


def _rebuild(failure: Failure) -> unpack.PackageError:
    """Return the child's error."""
    message = _printable(failure.message)
    if failure.error == unpack.UnpackFailedError.__name__:
        return unpack.UnpackFailedError(message, failure.errno)
    if (kind := _REPORTED_ERRORS.get(failure.error)) is not None:
        return kind(message)
    return unpack.UnpackProcessError(f"the process that unpacks the package failed: {message}")


def _describe(code: int, output: bytearray) -> str:
    """Describe the end of a child by its exit code; negative ones are signals, as in `subprocess`."""
    if code == -signal.SIGXCPU:
        return "it used more CPU time than it may"
    if code < 0:
        return f"signal {-code}, {signal.strsignal(-code)}"
    last = output.rstrip().rpartition(b"\n")[2]
    return f"exit code {code}" + (f", {_printable(last)}" if last else "")


def _printable(text: str | bytes | bytearray) -> str:
    if not isinstance(text, str):
        text = text.decode(errors="replace")
    line = "".join(char if char.isprintable() else " " for char in text).strip()
    return line if len(line) <= _MESSAGE_LENGTH else f"…{line[-_MESSAGE_LENGTH:]}"


def _sync(root: Path) -> None:
    try:
        fsync.sync_tree(root)
    except OSError as error:
        raise unpack.UnpackFailedError.from_os_error("the tree cannot be synced", error) from error
