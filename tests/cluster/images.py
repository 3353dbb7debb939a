"""The images that the cluster runs, as archives that containerd imports: `python -m tests.cluster.images`.

There is neither a registry nor an engine: they are made of Debian's packages and of `Dockerfile.csi`. An archive's
name holds a hash of all that it is made of, so what is there is right, and what is not is built; it gets its name
when it is whole. Builds that meet in one folder wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster import buildah, commands, image_archive, pip_config, rootfs
from tests.cluster.commands import CommandFailedError, CommandUnavailableError

__all__ = [
    "APP",
    "CSI",
    "PAUSE",
    "CommandFailedError",
    "CommandUnavailableError",
    "Image",
    "build",
    "built",
    "find",
    "hash_inputs",
]

CSI: Final = "localhost/oneagent-csi:e2e"
APP: Final = "localhost/app:e2e"
PAUSE: Final = "localhost/pause:e2e"

_ROOT: Final = Path(__file__).parents[2]
_CACHE: Final = _ROOT / "build" / "cluster" / "images"
_DOCKERFILE: Final = "Dockerfile.csi"
_IGNORING: Final = ".dockerignore"
_HERE: Final = Path(__file__).parent
_MODULES: Final = ("buildah.py", "image_archive.py", "images.py", "rootfs.py")
_KEY_LENGTH: Final = 16

# Wheels count on libstdc++ being there. musl is for applications that are not built for glibc.
_APP_PACKAGES: Final = ("coreutils", "dash", "libstdc++6", "musl", "python3")
_BUILDER_PACKAGES: Final = (*_APP_PACKAGES, "python3-pip")
PROGRAMS: Final = {**rootfs.PROGRAMS, **buildah.PROGRAMS, "busybox": "busybox-static"}


@dataclass(frozen=True)
class Image:
    reference: str
    key: str
    """A hash of all that it is made of."""
    make: Callable[[Path, Path], None]
    """Writes the archive; the log gets what programs say."""


def build(*others: Image, cache: Path = _CACHE) -> dict[str, Path]:
    """The archives of all images by the images' names, after building what is not there; `Unavailable`, `Failed`."""
    return dict(_one_by_one(cache.resolve(), others))


def built(cache: Path = _CACHE) -> dict[str, Path]:
    """The archives that the last build left, whatever the sources are by now; `Unavailable` if there was none."""
    found = {reference: archive for reference in (PAUSE, APP, CSI) for archive in _of_any_key(cache, reference)}
    if len(found) < 3:
        raise CommandUnavailableError("the images are not built: python -m tests.cluster.images")
    return found


def find(reference: str, cache: Path = _CACHE) -> Path | None:
    """The archive that the last build left of an image, if it was built."""
    return next(iter(_of_any_key(cache, reference)), None)


def _one_by_one(cache: Path, others: Sequence[Image] = ()) -> Iterator[tuple[str, Path]]:
    commands.need(PROGRAMS)
    if os.geteuid() != 0:
        raise CommandUnavailableError("building images needs root")
    with _alone(cache):
        for image in (_pause(), _debian(APP, _APP_PACKAGES), _csi(cache), *others):
            yield image.reference, _archive(cache, image)


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Nobody else builds here, not even a program whose starter was killed: programs inherit the lock."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(cache / "work", ignore_errors=True)
        yield


def _archive(cache: Path, image: Image) -> Path:
    stem = _stem(image.reference)
    archive = cache / f"{stem}-{image.key}.tar"
    if not archive.exists():
        work, log = cache / "work" / stem, cache / f"{stem}.log"
        work.mkdir(parents=True)
        log.write_bytes(b"")
        image.make(work / archive.name, log)
        with (work / archive.name).open("rb") as whole:
            os.fsync(whole.fileno())
        for old in _of_any_key(cache, image.reference):
            old.unlink()
        (work / archive.name).rename(archive)
        shutil.rmtree(work)
    return archive


def _of_any_key(cache: Path, reference: str) -> Iterable[Path]:
    return cache.glob(f"{_stem(reference)}-{'?' * _KEY_LENGTH}.tar")


def _stem(reference: str) -> str:
    return reference.removeprefix("localhost/").removesuffix(":e2e")


def hash_inputs(files: Mapping[str, bytes], *facts: str) -> str:
    """A hash of these files, of facts, and of the modules that make something of them."""
    key = hashlib.sha256("\n".join(facts).encode())
    for name, content in (*_files(_HERE, _MODULES).items(), *files.items()):
        key.update(f"\n{name} {len(content)}\n".encode() + content)
    return key.hexdigest()[:_KEY_LENGTH]


def _files(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def _pause() -> Image:
    """What holds a pod's namespaces: one static program, so that pods cost next to nothing."""
    program = shutil.which("busybox")
    assert program
    busybox = Path(program)
    if b"ld-linux" in busybox.read_bytes()[:4096]:
        raise CommandUnavailableError("busybox is not a static program: apt-get install busybox-static")

    def make(archive: Path, log: Path) -> None:
        layer = archive.with_suffix(".layer")
        with tarfile.open(layer, "w", dereference=True) as tar:
            tar.add(busybox, "busybox")
        image_archive.write(archive, PAUSE, layer, ["/busybox", "sleep", "infinity"])

    return Image(PAUSE, hash_inputs(_files(busybox.parent, [busybox.name])), make)


def _debian(reference: str, packages: Sequence[str]) -> Image:
    """An image of Debian packages that does nothing by itself."""

    def make(archive: Path, log: Path) -> None:
        layer = archive.with_suffix(".layer")
        rootfs.write(layer, packages, log)
        image_archive.write(archive, reference, layer, ["sleep", "infinity"])

    return Image(reference, hash_inputs({}, rootfs.release(), *packages), make)


def _csi(cache: Path) -> Image:
    """The image of `Dockerfile.csi`, which takes from its base what it needs, and nothing else."""
    builder = _debian("localhost/builder:e2e", _BUILDER_PACKAGES)
    files = _context()

    def make(archive: Path, log: Path) -> None:
        context = archive.parent / "context"
        _write(context, files)
        store = buildah.Store(cache / "store", log)
        store.load(_archive(cache, builder))
        build = functools.partial(
            store.build,
            context=context,
            dockerfile=context / _DOCKERFILE,
            arguments={"BASE_IMAGE": builder.reference},
        )
        # With a name of its own the first stage stays when what is left over is pruned. And mounts of the way to
        # packages leave empty folders, which are only in this stage.
        build("localhost/stage:e2e", more=["--target=builder", *pip_config.options(archive.parent)])
        build(CSI)
        store.save(CSI, archive)
        store.prune()

    return Image(CSI, hash_inputs(files, builder.key), make)


def _context() -> dict[str, bytes]:
    """What a build sees, which `.dockerignore` lists, and the two files that say how it goes."""
    lines = (_ROOT / _IGNORING).read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#") and line != "*"]
    left_out = [pattern for pattern in patterns if not pattern.startswith("!")]
    names = [_DOCKERFILE, _IGNORING]
    for path in (_ROOT / pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")):
        for file in path.rglob("*") if path.is_dir() else [path]:
            inside = file.relative_to(_ROOT)
            if file.is_file() and not any(part.match(out) for part in (inside, *inside.parents) for out in left_out):
                names.append(str(inside))
    return _files(_ROOT, sorted(names))


def _write(context: Path, files: Mapping[str, bytes]) -> None:
    """Write what the key was made of, whatever was edited since; with the same times for the same content."""
    for name, content in files.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_bytes(content)
    for path in (context, *context.rglob("*")):
        os.utime(path, (0, 0))


def main() -> None:
    start = time.monotonic()
    try:
        for reference, archive in _one_by_one(_CACHE):
            now = time.monotonic()
            print(f"{reference:28}{archive.stat().st_size / 1e6:8.1f} MB{now - start:8.2f} s", flush=True)
            start = now
    except (CommandUnavailableError, CommandFailedError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
