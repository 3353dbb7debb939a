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

from oneagent.common import disks, packages
from oneagent.common.packages import layouts, sharing, treemanifests, trees, writing, zips

_SMALL: Final = 4 << 20
_THREADS_MAX: Final = 8
"""More threads than this wait for the disk, and each holds its buffers."""

Jobs = collections.deque[list[zips.Member]]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An agent on the disk, ready to be synced and renamed."""

    root: Path
    """The agent's root: the scratch folder or a folder below it. What lies beside it may be deleted."""
    manifest: treemanifests.Manifest
    unpacked_bytes: int

    def settle(self) -> None:
        """Make the tree durable and give its page cache back: the last step before the rename."""
        try:
            disks.sync_tree(self.root)
            with trees.Tree(self.root) as tree:
                tree.forget(file.path for file in self.manifest.files)
        except OSError as error:
            raise packages.UnpackFailed(f"{self.root} cannot be synced", error) from error


def unpack_agent(
    archive: Path,
    scratch: Path,
    *,
    limits: packages.Limits | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] | None = None,
    present: sharing.Present | None = None,
    wrote: writing.Wrote | None = None,
) -> Unpacked:
    """Unpack an agent package into `scratch`, as `unpack_zip`; refused if no agent is in it.

    The manifest's paths are relative to the agent's root, and `agent/bin/current` is in place. What is `present` on
    the same file system is not stored again. `wrote` is told of each piece.
    """
    with opened(archive, limits) as package:
        inside = layouts.prepare(package.outline)
        library = layouts.library(inside)

        def check(tree: trees.Tree) -> None:
            layouts.check_machine(tree.beginning(library, layouts.HEADER_BYTES))

        whole = _unpack(package, scratch, threads, cancelled, present, check, wrote)
    manifest = below(whole, inside)
    return Unpacked(scratch / inside, manifest, manifest.unpacked_bytes)


def unpack_zip(
    archive: Path,
    into: Path,
    *,
    limits: packages.Limits | None = None,
    threads: int | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> treemanifests.Manifest:
    """Unpack a zip into the folder `into`, which is made if it is absent and has to be empty otherwise.

    Raises `packages.PackageError`, and `into` is empty then. `threads` defaults to one a core, at most 8;
    `cancelled` is asked from each of them, after every piece of at most 1 MiB.
    """
    with opened(archive, limits) as package:
        return _unpack(package, into, threads, cancelled)


@contextlib.contextmanager
def opened(archive: Path, limits: packages.Limits | None = None) -> Iterator[zips.Zip]:
    """A zip that has been read and checked; `packages.PackageError`."""
    try:
        with zips.Zip(archive, limits or packages.Limits()) as package:
            yield package
    except OSError as error:
        raise packages.UnpackFailed(f"{archive} cannot be unpacked", error) from error


def _unpack(
    package: zips.Zip,
    into: Path,
    threads: int | None,
    cancelled: Callable[[], bool] | None,
    present: sharing.Present | None = None,
    check: Callable[[trees.Tree], None] | None = None,
    wrote: writing.Wrote | None = None,
) -> treemanifests.Manifest:
    """`check` sees the tree once its files are there, and may refuse it."""

    def write_files(writer: writing.Writer) -> list[treemanifests.File]:
        written = _write_files(package, writer, threads or _cores(), cancelled or (lambda: False))
        if check:
            check(writer.tree)
        return written

    return writing.fill(into, package.outline, write_files, present, wrote)


def _write_files(
    package: zips.Zip, writer: writing.Writer, threads: int, cancelled: Callable[[], bool]
) -> list[treemanifests.File]:
    jobs = _jobs(package.members)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set() or cancelled():
            raise packages.UnpackCancelled("unpacking was cancelled")

    def work() -> list[treemanifests.File]:
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
    for error in sorted(errors, key=lambda error: isinstance(error, packages.UnpackCancelled)):
        raise error
    return list(itertools.chain.from_iterable(future.result() for future in running))


def _work(package: zips.Zip, writer: writing.Writer, jobs: Jobs, check: Callable[[], None]) -> list[treemanifests.File]:
    """Take jobs until none is left; several threads do this at once."""
    buffer = bytearray(zips.READ)
    done: list[treemanifests.File] = []
    while True:
        try:
            job = jobs.popleft()
        except IndexError:
            return done
        with writer.tree.folder(packages.parent(job[0].path)) as folder:
            for member in job:
                check()
                chunks = _checked(package.chunks(member, buffer), check)
                done.append(writer.write(folder, member.path, member.mode, chunks))


def _checked(chunks: Iterable[bytes | memoryview], check: Callable[[], None]) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        yield chunk
        check()


def _jobs(members: Iterable[zips.Member]) -> Jobs:
    """Members of one folder each, largest job first."""
    jobs: list[list[zips.Member]] = []
    for _, group in itertools.groupby(
        sorted(members, key=lambda member: packages.parent(member.path)),
        key=lambda member: packages.parent(member.path),
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


def below(whole: treemanifests.Manifest, root: str) -> treemanifests.Manifest:
    """The manifest of the folder `root` of a tree."""
    if not root:
        return whole
    start = f"{root}/"
    cut = len(start)
    return treemanifests.Manifest(
        files=[
            treemanifests.File(file.path[cut:], file.size, file.mode, file.sha256)
            for file in whole.files
            if file.path.startswith(start)
        ],
        links=[treemanifests.Link(link.path[cut:], link.target) for link in whole.links if link.path.startswith(start)],
        directories=[path[cut:] for path in whole.directories if path.startswith(start)],
    )


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), _THREADS_MAX)
