"""The process that unpacks a package. It has no rights (see `linux.sandbox`) before it reads the first byte of it.

Everything it needs is imported before that. Standard error is standard output: what an interpreter says at its end is
the explanation that the parent logs.
"""

from __future__ import annotations

import codecs
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import BinaryIO, Final

if __name__ == "__main__":
    # It takes a quarter of the start of this process, and msgspec works without it.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]

import msgspec

from oneagent.common import typed_json, unpack
from oneagent.common.unpack import dedup, early_files, file_manifest, image, zip
from oneagent.csi_driver.linux import sandbox, stop_signals
from oneagent.csi_driver.provisioner.unpacker import messages
from oneagent.csi_driver.provisioner.unpacker.messages import Answer, Failure, Link, Request, Size, Unpacked

LIMITS: Final = sandbox.Limits(
    address_space_bytes=512 << 20,
    data_bytes=128 << 20,
    file_bytes=unpack.UnpackLimits().unpacked_bytes,
    open_files=256,
    cpu_seconds=300,
)
"""An agent takes 20 to 40 MiB and some seconds; three of these processes and their parent fit into the container."""

MAX_EXISTING_FILES: Final = 50_000
"""Files of other versions that are compared with those of the package; with more the memory would not suffice."""
_STACK_BYTES: Final = 1 << 20


def main() -> int:
    """Carry out one request; the exit code."""
    stop_signals.unblock()
    request = typed_json.decode(sys.stdin.buffer.readline(), Request)
    threading.stack_size(_STACK_BYTES)
    codecs.lookup("cp437")  # Names in zips; loaded at first use otherwise.
    if request.kind == "image":
        import zstandard  # noqa: F401 - the same
    readable = [*sys.path, "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    for existing in request.existing:
        readable += [existing.tree, existing.manifest]
    sandbox.enter(LIMITS, request.parent, readable, [request.tree])
    try:
        _answer(_unpack(request, sys.stdin.buffer))
    except unpack.PackageError as error:
        _answer(Failure(type(error).__name__, str(error), getattr(error, "errno", None)))
    except MemoryError:
        message = f"unpacking it takes more than {LIMITS.data_bytes >> 20} MiB of memory"
        _answer(Failure(unpack.PackageTooLargeError.__name__, message))
    except Exception:  # noqa: BLE001 - the parent reports it
        _answer(Failure("", traceback.format_exc(limit=-8)))
    return 0


def _unpack(request: Request, orders: BinaryIO) -> Unpacked:
    links = dedup.DeferredLinks()
    existing = dedup.ExistingFiles(_load(request.existing), links)
    tree = Path(request.tree)
    package: unpack.AgentPackage
    if request.kind == "image":
        package = image.read(request.package, early=early_files.EarlyFiles(tree, request.free_bytes, existing))
    else:
        package = zip.read(request.package[0])
    _answer(Size(package.unpacked_size))
    if orders.readline() != b"\n":
        raise unpack.UnpackCancelledError("the parent has ended")
    unpacked = package.unpack(tree, threads=request.threads, existing=existing)
    unpacked.make_durable()
    with open(request.links, "wb") as file:
        file.writelines(
            msgspec.json.encode(Link(path, str(origin or ""), source)) + b"\n"
            for path, (origin, source) in links.of.items()
        )
    with open(request.manifest, "wb") as file:
        file.write(msgspec.json.encode(unpacked.manifest))
    root = unpacked.root.relative_to(tree).as_posix()
    return Unpacked("" if root == "." else root, unpacked.unpacked_bytes)


def _load(versions: tuple[messages.Existing, ...]) -> list[tuple[Path, file_manifest.Manifest]]:
    """Load file manifests, the last first; a version that was removed meanwhile is left out."""
    found = []
    files = 0
    for version in reversed(versions):
        try:
            manifest = file_manifest.Manifest.load(Path(version.manifest))
        except file_manifest.TreeManifestError:
            continue
        files += len(manifest.files)
        if files > MAX_EXISTING_FILES:
            break
        found.append((Path(version.tree), manifest))
    return found


def _answer(answer: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    code = main()
    # Without the interpreter's own clean-up, which frees memory object by object.
    os._exit(code)
