"""Makes a root file system that runs Python and these extension modules: `python3 root.py ROOT FOLDER…`.

Copied from the machine that it runs on: the interpreter, its standard library, the shared libraries that these and
the folders' extension modules ask for, and the loader. No shell, no package manager, nothing that is set-uid. Which
files come from the machine is written to `ROOT/usr/share/sbom/base.json`, with the Debian package that each is of.

The loader itself says what it would load, so this is the same on every kind of machine. It needs glibc 2.34 or newer,
which resolves names without plug-ins.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

LISTING: Final = "usr/share/sbom/base.json"

_LIBRARY_LEFT_OUT: Final = (
    *("__pycache__", "*-packages", "test", "tests", "idlelib", "lib2to3", "tkinter", "turtle*", "ensurepip"),
    *("config-*", "pydoc_data", "distutils", "_curses*.so", "_tkinter*.so", "_gdbm*.so", "_dbm*.so", "nis.*.so"),
    *("readline.*.so", "_test*.so", "_ctypes_test*.so", "xx*.so", "EXTERNALLY-MANAGED"),
)
_WRITTEN: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_LOADED: Final = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)$")
_PT_INTERP: Final = 3


def loader(program: bytes) -> str:
    """The PT_INTERP of a 64-bit program (elf(5))."""
    (headers,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    for at in range(headers, headers + size * count, size):
        kind, offset, filled = struct.unpack_from("<I4xQ16xQ", program, at)
        if kind == _PT_INTERP:
            return program[offset : offset + filled].rstrip(b"\0").decode()
    raise ValueError("the interpreter is linked statically, and can load no extension module")


def libraries(loader: str, files: Iterable[Path]) -> set[Path]:
    """The shared libraries that these files need, by the names under which the loader finds them."""
    found = {Path(loader)}
    for file in files:
        done = subprocess.run([loader, "--list", file], check=False, capture_output=True, text=True)
        if done.returncode:
            raise FileNotFoundError(f"{file}: {done.stderr.strip()}")
        # As it says it, one beside a program may be `/usr/local/bin/../lib/…`.
        found |= {
            Path(os.path.normpath(match[1])) for line in done.stdout.splitlines() if (match := _LOADED.search(line))
        }
    return found


class Root:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.copied: list[Path] = []
        for path in (Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin")):
            if path.is_symlink():
                self._at(path.resolve()).mkdir(parents=True, exist_ok=True)
                self._at(path).symlink_to(path.resolve().relative_to("/"))

    def add(self, path: Path) -> None:
        """A file under its name; where that is a link, what it leads to as well."""
        self._link(path)
        real = path.parent.resolve() / path.name
        if real.is_symlink():
            self._link(real)
            self.add(real.parent / os.readlink(real))
        elif real not in self.copied:
            self._make_room(real)
            shutil.copy2(real, self._at(real))
            self._at(real).chmod(0o755 if os.access(real, os.X_OK) else 0o644)
            self.copied.append(real)

    def add_standard_library(self) -> None:
        library = Path(sysconfig.get_path("stdlib"))
        shutil.copytree(library, self._at(library), ignore=shutil.ignore_patterns(*_LIBRARY_LEFT_OUT))

    def add_terms(self, package: str) -> None:
        """A package's licence, which has to go where its files go."""
        path = Path("/usr/share/doc", package, "copyright")
        if path.exists():
            self.add(path)

    def write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def make_for_everybody(self, name: str) -> None:
        (self._folder / name).mkdir()
        (self._folder / name).chmod(0o1777)

    def write_cache_of_loader(self) -> None:
        """For libraries in folders that the loader does not look into by itself, as Python's own may be."""
        if program := shutil.which("ldconfig", path="/sbin:/usr/sbin"):
            for path in sorted(Path("/etc").glob("ld.so.conf")) + sorted(Path("/etc/ld.so.conf.d").glob("*.conf")):
                self.add(path)
            subprocess.run([program, "-r", self._folder], check=True)

    def extension_modules(self) -> Iterator[Path]:
        """Those of the standard library that were copied, where they were copied from."""
        copied = self._at(Path(sysconfig.get_path("stdlib")))
        for path in sorted(copied.rglob("*.so")):
            yield Path("/") / path.relative_to(self._folder)

    def _link(self, path: Path) -> None:
        if path.is_symlink() and not self._at(path).is_symlink() and not self._at(path).exists():
            self._make_room(path)
            self._at(path).symlink_to(os.readlink(path))

    def _make_room(self, path: Path) -> None:
        self._at(path).parent.mkdir(parents=True, exist_ok=True)

    def _at(self, path: Path) -> Path:
        return self._folder / path.relative_to("/")


def packages(files: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Of each file the Debian package that it is of, its version and its architecture; empty if nobody knows."""
    # dpkg may know a file by the name that it had before /lib became a link to /usr/lib.
    names = {name: str(file) for file in files for name in {str(file), str(file).removeprefix("/usr")}}
    owners = {}
    for line in _ask("dpkg-query", "--search", *names):
        owner, _, name = line.partition(": ")
        owners[names[name]] = owner.partition(",")[0]
    facts = {}
    show = "--showformat=${binary:Package} ${Package} ${Version} ${Architecture}\n"
    for line in _ask("dpkg-query", "--show", show, *set(owners.values())) if owners else ():
        owner, *told = line.split()
        facts[owner] = dict(zip(("name", "version", "architecture"), told, strict=True))
    return {str(file): facts.get(owners.get(str(file), ""), {}) for file in files}


def _ask(*command: str) -> list[str]:
    """The lines of what is known; what is not known is no error, and on another distribution that is everything."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        return []


def main() -> None:
    root, folders = Root(Path(sys.argv[1])), [Path(folder) for folder in sys.argv[2:]]
    python = Path(sys.base_prefix, "bin/python3")
    root.add(python)
    root.add_standard_library()
    programs = [python, *root.extension_modules()]
    programs += [file for folder in folders for file in sorted(folder.rglob("*.so*"))]
    ours = tuple(folders)
    for library in sorted(libraries(loader(python.resolve().read_bytes()), programs)):
        if not any(library.is_relative_to(folder) for folder in ours):
            root.add(library)
    for name, text in _WRITTEN.items():
        root.write(name, text)
    if Path("/etc/os-release").exists():
        root.add(Path("/etc/os-release"))
    root.write_cache_of_loader()
    root.make_for_everybody("tmp")
    found = packages(sorted(root.copied))
    root.write(LISTING, json.dumps(found, indent=1))
    for name in sorted({package["name"] for package in found.values() if package}):
        root.add_terms(name)


if __name__ == "__main__":
    main()
