"""Takes out of installed distributions what no command of the image uses: `python3 slim.py SITE_PACKAGES`.

It is half of what pip installs. What is taken out is named here with the reason; everything else stays as it came.
Whether something is missed is seen while the image is built: `bytecode.py` imports all modules of ours after this.

Extension modules lose what lies behind their last segment: symbols and debugging information, which only a debugger
reads. That is done here because it is the same on every machine, and an image of Python has no `strip`.
"""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

UNUSED: Final = (
    # One class for each kind of object and one for each group of the API, twice: for threads and for asyncio. The
    # operator takes configuration, TLS and tokens from this client, and the package imports classes by name only.
    *("kubernetes/client/api/*_api.py", "kubernetes/aio/client/api/*_api.py"),
    *("kubernetes/client/models/*.py", "kubernetes/aio/client/models/*.py"),
    # rich colours programs with them, tables it does not.
    "pygments/lexers/[a-z]*.py",
    # Tests, and what helps others to write some.
    *("**/tests", "**/testing"),
    # For type checkers and compilers.
    *("**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.c", "**/*.h"),
)
KEPT: Final = (
    "kubernetes/client/models/__init__.py",
    "kubernetes/aio/client/models/__init__.py",
)

_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"


def unused(site_packages: Path) -> Iterator[Path]:
    """Files and folders of `UNUSED`; no folder's content besides the folder."""
    kept = {site_packages / name for name in KEPT}
    for pattern in UNUSED:
        yield from sorted(set(site_packages.glob(pattern)) - kept)


def remove(site_packages: Path) -> None:
    for path in list(unused(site_packages)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def stripped(content: bytes) -> bytes:
    """An ELF file without sections, and without what lies behind all segments; as it is if it is no 64-bit ELF.

    A loader reads segments only (elf(5)). Sections are for linkers and debuggers.
    """
    if len(content) < 64 or not content.startswith(_ELF64_LITTLE):
        return content
    (headers,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    end = headers + size * count
    for at in range(headers, end, size):
        offset, filled = struct.unpack_from("<Q16xQ", content, at + 8)
        end = max(end, offset + filled)
    short = bytearray(content[:end])
    struct.pack_into("<Q", short, 40, 0)
    struct.pack_into("<HH", short, 60, 0, 0)
    return bytes(short)


def main() -> None:
    site_packages = Path(sys.argv[1])
    remove(site_packages)
    for library in site_packages.rglob("*.so*"):
        library.write_bytes(stripped(library.read_bytes()))


if __name__ == "__main__":
    main()
