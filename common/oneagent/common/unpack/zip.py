"""An agent package becomes a tree on the disk: the whole one, or nothing.

Everything that names and sizes can show is refused before the first byte is written; a checksum that
fails later, a full disk or a cancellation empties the folder again. The caller unpacks into a fresh
folder below `tmp/`, calls `Unpacked.settle`, and makes the agent visible by one rename.

Inflating, hashing and writing release the interpreter's lock, so a thread per core does all three for one
file after the other. Files over 4 MiB are jobs of their own, small ones are taken together by
folder; the largest jobs go first, so that no thread is left alone with one at the end. Memory is a read
buffer and a piece for each thread, whatever the package holds.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import fsync, unpack
from oneagent.common.unpack import agent_layout, dedup, file_manifest, tree_writer, writing, zip_reader

_SMALL: Final = 4 << 20
_THREADS_MAX: Final = 8
"""More threads than this wait for the disk, and each holds its buffers."""

Jobs = collections.deque[list[zip_reader.Member]]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An agent on the disk, ready to be synced and renamed."""

    root: Path
    """The agent's root: the scratch folder or a folder below it. What lies beside it may be deleted."""
    manifest: file_manifest.Manifest
    unpacked_bytes: int

    def settle(self) -> None:
        """Make the tree durable and give its page cache back: the last step before the rename."""
        try:
            fsync.sync_tree(self.root)
            with tree_writer.Tree(self.root) as tree:
                tree.forget(file.path for file in self.manifest.files)
        except OSError as error:
            raise unpack.UnpackFailedError(f"{self.root} cannot be synced", error) from error


def unpack_agent(
    archive: Path,
    scratch: Path,
    *,
    limits: unpack.Limits | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] | None = None,
    present: dedup.ExistingFiles | None = None,
    wrote: writing.Wrote | None = None,
) -> Unpacked:
    """Unpack an agent package into `scratch`, as `unpack_zip`; refused if no agent is in it.

    The manifest's paths are relative to the agent's root, and `agent/bin/current` is in place. What is `present` on
    the same file system is not stored again. `wrote` is told of each piece.
    """
    with opened(archive, limits) as package:
        inside = agent_layout.prepare(package.outline)
        library = agent_layout.library(inside)

        def check(tree: tree_writer.Tree) -> None:
            agent_layout.check_machine(tree.beginning(library, agent_layout.HEADER_BYTES))

        whole = _unpack(package, scratch, threads, cancelled, present, check, wrote)
    manifest = below(whole, inside)
    return Unpacked(scratch / inside, manifest, manifest.unpacked_bytes)


def unpack_zip(
    archive: Path,
    into: Path,
    *,
    limits: unpack.Limits | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> file_manifest.Manifest:
    """Unpack a zip into the folder `into`, which is made if it is absent and has to be empty otherwise.

    Raises `packages.PackageError`, and `into` is empty then. `threads` defaults to one a core, at most 8;
    `cancelled` is asked from each of them, after every piece of at most 1 MiB.
    """
    with opened(archive, limits) as package:
        return _unpack(package, into, threads, cancelled)


@contextlib.contextmanager
def opened(archive: Path, limits: unpack.Limits | None = None) -> Iterator[zip_reader.Zip]:
    """A zip that has been read and checked; `packages.PackageError`."""
    try:
        with zip_reader.Zip(archive, limits or unpack.Limits()) as package:
            yield package
    except OSError as error:
        raise unpack.UnpackFailedError(f"{archive} cannot be unpacked", error) from error


def _unpack(
    package: zip_reader.Zip,
    into: Path,
    threads: int | None,
    cancelled: Callable[[], bool] | None,
    present: dedup.ExistingFiles | None = None,
    check: Callable[[tree_writer.Tree], None] | None = None,
    wrote: writing.Wrote | None = None,
) -> file_manifest.Manifest:
    """`check` sees the tree once its files are there, and may refuse it."""

    def write_files(writer: writing.Writer) -> list[file_manifest.File]:
        written = _write_files(package, writer, threads or _cores(), cancelled or (lambda: False))
        if check:
            check(writer.tree)
        return written

    return writing.fill(into, package.outline, write_files, present, wrote)


def _write_files(
    package: zip_reader.Zip, writer: writing.Writer, threads: int, cancelled: Callable[[], bool]
) -> list[file_manifest.File]:
    jobs = _jobs(package.members)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set() or cancelled():
            raise unpack.UnpackCancelledError("unpacking was cancelled")

    def work() -> list[file_manifest.File]:
        try:
            return _work(package, writer, jobs, check)
        except BaseException:
            stop.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="unpack") as pool:
        running = [pool.submit(work) for _ in range(min(threads, len(jobs)))]
        try:
            concurrent.futures.wait(running)
        finally:
            stop.set()
    errors = [error for future in running if (error := future.exception())]
    # One thread's error cancels the others; what they then raise is not the reason.
    for error in sorted(errors, key=lambda error: isinstance(error, unpack.UnpackCancelledError)):
        raise error
    return list(itertools.chain.from_iterable(future.result() for future in running))


def _work(
    package: zip_reader.Zip, writer: writing.Writer, jobs: Jobs, check: Callable[[], None]
) -> list[file_manifest.File]:
    """Take jobs until none is left; several threads do this at once."""
    buffer = bytearray(zip_reader.READ)
    done: list[file_manifest.File] = []
    while True:
        try:
            job = jobs.popleft()
        except IndexError:
            return done
        with writer.tree.folder(unpack.parent(job[0].path)) as folder:
            for member in job:
                check()
                chunks = _checked(package.chunks(member, buffer), check)
                done.append(writer.write(folder, member.path, member.mode, chunks))


def _checked(chunks: Iterable[bytes | memoryview], check: Callable[[], None]) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        yield chunk
        check()


def _jobs(members: Iterable[zip_reader.Member]) -> Jobs:
    """Members of one folder each, largest job first."""
    jobs: list[list[zip_reader.Member]] = []
    for _, group in itertools.groupby(
        sorted(members, key=lambda member: unpack.parent(member.path)),
        key=lambda member: unpack.parent(member.path),
    ):
        room = -1
        for member in sorted(group, key=lambda member: member.size):
            if member.size > room:
                jobs.append([])
                room = _SMALL
            jobs[-1].append(member)
            room -= member.size
    jobs.sort(key=lambda job: sum(member.size for member in job), reverse=True)
    return collections.deque(jobs)


def below(whole: file_manifest.Manifest, root: str) -> file_manifest.Manifest:
    """The manifest of the folder `root` of a tree."""
    if not root:
        return whole
    start = f"{root}/"
    cut = len(start)
    return file_manifest.Manifest(
        files=[
            file_manifest.File(file.path[cut:], file.size, file.mode, file.sha256)
            for file in whole.files
            if file.path.startswith(start)
        ],
        links=[file_manifest.Link(link.path[cut:], link.target) for link in whole.links if link.path.startswith(start)],
        directories=[path[cut:] for path in whole.directories if path.startswith(start)],
    )


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), _THREADS_MAX)
