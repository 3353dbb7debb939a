"""Unpacks a zip into a tree: completely, or not at all.

Every fault that names and sizes show is refused before the first byte is written. A wrong checksum, a full disk or a
cancellation empties the directory again. The caller unpacks into a fresh directory below `tmp/`, calls
`UnpackedAgent.make_durable`, and makes the agent visible by one rename.

Inflating, hashing and writing release the interpreter's lock, so a thread per core does all three for one
file after the other. Files over 4 MiB are jobs of their own, small ones are grouped by directory; the largest
jobs go first, so that no thread is left alone with one at the end. Memory is a read buffer and a piece for
each thread, whatever the package has.
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

from oneagent.common import unpack
from oneagent.common.unpack import agent_layout, dedup, entry_index, file_manifest, tree_writer, zip_reader

_SMALL: Final = 4 << 20
_THREADS_MAX: Final = 8
"""More threads than this wait for the disk, and each holds its buffers."""

Jobs = collections.deque[list[zip_reader.Member]]


@dataclass(frozen=True, slots=True)
class ZipPackage:
    """A zip that has been read and has an agent."""

    file: unpack.PackageFile
    unpacked_size: int

    def unpack(
        self,
        scratch: Path,
        *,
        threads: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        existing: dedup.ExistingFiles | None = None,
        on_written: tree_writer.OnWritten | None = None,
    ) -> tree_writer.UnpackedAgent:
        return unpack_agent(
            self.file, scratch, threads=threads, cancelled=cancelled, existing=existing, on_written=on_written
        )


def read(archive: unpack.PackageFile) -> ZipPackage:
    """Read a zip. `PackageError` if it is refused."""
    return ZipPackage(archive, zip_reader.unpacked_size(archive))


def unpack_agent(
    archive: unpack.PackageFile,
    scratch: Path,
    *,
    limits: unpack.UnpackLimits | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] | None = None,
    existing: dedup.ExistingFiles | None = None,
    on_written: tree_writer.OnWritten | None = None,
) -> tree_writer.UnpackedAgent:
    """Unpack an agent package into `scratch`, as `unpack_zip`; refused if it has no agent.

    The manifest's paths are relative to the agent's root, and `agent/bin/current` is in place. Files that are in
    `existing`, on the same file system, are linked. `on_written` receives the bytes of each piece.
    """
    with open_zip(archive, limits) as package:
        root = agent_layout.prepare(package.index)
        library = agent_layout.library_path(root, package.index)

        def check(writer: tree_writer.FileWriter) -> None:
            agent_layout.check_machine(writer.read_prefix(library, agent_layout.HEADER_BYTES), library=library)

        whole = _unpack(package, scratch, threads, cancelled, existing, check, on_written)
    manifest = whole.subtree(root)
    return tree_writer.UnpackedAgent(scratch / root, manifest, manifest.unpacked_bytes)


def unpack_zip(
    archive: Path,
    into: Path,
    *,
    limits: unpack.UnpackLimits | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> file_manifest.Manifest:
    """Unpack a zip into the directory `into`, which is made if it is absent and has to be empty otherwise.

    After a `PackageError` `into` is empty. `threads` defaults to one a core, at most 8. Each of them calls
    `cancelled` after every piece of at most 1 MiB.
    """
    with open_zip(archive, limits) as package:
        return _unpack(package, into, threads, cancelled)


@contextlib.contextmanager
def open_zip(archive: unpack.PackageFile, limits: unpack.UnpackLimits | None = None) -> Iterator[zip_reader.ZipReader]:
    """Open and check a zip; `PackageError` if it is refused."""
    try:
        with zip_reader.ZipReader(archive, limits or unpack.UnpackLimits()) as package:
            yield package
    except OSError as error:
        what = f"{unpack.describe_file(archive)} cannot be unpacked"
        raise unpack.UnpackFailedError.from_os_error(what, error) from error


def _unpack(
    package: zip_reader.ZipReader,
    into: Path,
    threads: int | None,
    cancelled: Callable[[], bool] | None,
    existing: dedup.ExistingFiles | None = None,
    check: Callable[[tree_writer.FileWriter], None] | None = None,
    on_written: tree_writer.OnWritten | None = None,
) -> file_manifest.Manifest:
    """`check` gets the writer once all files are written, and may refuse the tree."""

    def write_files(writer: tree_writer.FileWriter) -> list[file_manifest.File]:
        written = _write_files(package, writer, threads or _default_threads(), cancelled or (lambda: False))
        if check:
            check(writer)
        return written

    return tree_writer.write_tree(into, package.index, write_files, existing, on_written)


def _write_files(
    package: zip_reader.ZipReader, writer: tree_writer.FileWriter, threads: int, cancelled: Callable[[], bool]
) -> list[file_manifest.File]:
    jobs = _group_jobs(package.members)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set() or cancelled():
            raise unpack.UnpackCancelledError("unpacking was cancelled")

    def work() -> list[file_manifest.File]:
        try:
            return _run_jobs(package, writer, jobs, check)
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


def _run_jobs(
    package: zip_reader.ZipReader, writer: tree_writer.FileWriter, jobs: Jobs, check: Callable[[], None]
) -> list[file_manifest.File]:
    """Run jobs until none is left; several threads do this at once."""
    buffer = bytearray(zip_reader.READ_BYTES)
    done: list[file_manifest.File] = []
    while True:
        try:
            job = jobs.popleft()
        except IndexError:
            return done
        with writer.tree.open_directory(entry_index.parent_path(job[0].path)) as directory:
            for member in job:
                check()
                chunks = _cancellable(package.chunks(member, buffer), check)
                done.append(writer.write(directory, member.path, member.mode, chunks))


def _cancellable(chunks: Iterable[bytes | memoryview], check: Callable[[], None]) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        yield chunk
        check()


def _group_jobs(members: Iterable[zip_reader.Member]) -> Jobs:
    """Group members by directory, largest job first."""
    jobs: list[list[zip_reader.Member]] = []
    for _, group in itertools.groupby(
        sorted(members, key=lambda member: entry_index.parent_path(member.path)),
        key=lambda member: entry_index.parent_path(member.path),
    ):
        space = -1
        for member in sorted(group, key=lambda member: member.size):
            if member.size > space:
                jobs.append([])
                space = _SMALL
            jobs[-1].append(member)
            space -= member.size
    jobs.sort(key=lambda job: sum(member.size for member in job), reverse=True)
    return collections.deque(jobs)


def _default_threads() -> int:
    return min(len(os.sched_getaffinity(0)), _THREADS_MAX)
