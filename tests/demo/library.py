"""A preload library that nobody here wrote, so that what the demonstration shows is a real effect.

It takes the agent library's place in the package. Looked for in this order: installed; fetched by an earlier run;
fetched now, as a distribution's package that is unpacked below build/ and not installed; glibc's own.

    NoLibrary   there is none, and none can be had; says what to install
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FETCHED: Final = Path("build/preload")
_FETCH_SECONDS: Final = 60
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoLibraryError(Exception):
    """There is no library to demonstrate with."""


@dataclass(frozen=True)
class Kind:
    """`effect` is a shell command whose output only the library can have made."""

    name: str
    about: str
    file: str
    package: str
    effect: str


JEMALLOC: Final = Kind(
    "jemalloc",
    "a memory allocator; it prints its statistics when a process ends",
    "libjemalloc.so.2",
    "libjemalloc2",
    "MALLOC_CONF=stats_print:true,stats_print_opts:mdablxe sed -n p /etc/ld.so.cache 2>&1 >/dev/null "
    "| grep -E 'Begin|^Version|^Allocated'",
)
FAKETIME: Final = Kind(
    "libfaketime",
    "it lets a process believe in another time",
    "libfaketime.so.1",
    "libfaketime",
    "FAKETIME='@2001-09-09 01:46:40' date",
)
MEMUSAGE: Final = Kind(
    "glibc's libmemusage",
    "it prints what memory a process has asked for",
    "libmemusage.so",
    "",
    "sed -n p /etc/ld.so.cache 2>&1 >/dev/null | head -n 5 | sed 's/\x1b\\[[0-9;]*m//g'",
)


@dataclass(frozen=True)
class Library:
    kind: Kind
    path: Path
    origin: str


def find() -> Library:
    """The first library that this machine's programs can be started with."""
    for kind in (JEMALLOC, FAKETIME):
        for origin, path in (*_installed(kind), *_fetched(kind)):
            if works(path):
                return Library(kind, path, origin)
    for kind in (JEMALLOC, FAKETIME):
        for origin, path in _fetch(kind):
            if works(path):
                return Library(kind, path, origin)
    for origin, path in _installed(MEMUSAGE):
        if works(path):
            return Library(MEMUSAGE, path, origin)
    raise NoLibraryError(
        "no preload library is to be had to demonstrate with; install one of: libjemalloc2 or libfaketime "
        "(Debian, Ubuntu), jemalloc or libfaketime (Fedora, and RHEL with EPEL)"
    )


def works(library: Path) -> bool:
    """Whether a program starts with it: right architecture, nothing missing that it needs."""
    environment = {"PATH": _SYSTEM_PATH, "LD_PRELOAD": str(library)}
    done = subprocess.run(["ls", "/"], env=environment, capture_output=True, text=True, check=False)
    # The dynamic loader goes on without a library that it can't load, but says so.
    return done.returncode == 0 and "LD_PRELOAD" not in done.stderr


def _installed(kind: Kind) -> Iterator[tuple[str, Path]]:
    try:
        table = subprocess.run(
            ["ldconfig", "-p"], env={"PATH": _SYSTEM_PATH}, capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        table = ""
    for line in table.splitlines():
        name, _, path = line.strip().partition(" => ")
        if name.split(" ")[0] == kind.file:
            yield "installed on this machine", Path(path)
    for folder in ("/usr/lib", "/usr/lib64"):  # libfaketime is not where the loader looks by itself.
        for found in sorted(Path(folder).glob(f"**/faketime/{kind.file}")):
            yield "installed on this machine", found


def _fetched(kind: Kind) -> Iterator[tuple[str, Path]]:
    for path in sorted(FETCHED.glob(f"**/{kind.file}")):
        yield f"from the distribution's package {kind.package}, unpacked below {FETCHED}/", path


def _fetch(kind: Kind) -> Iterator[tuple[str, Path]]:
    """Fetch and unpack the distribution's package; nothing if that is not possible."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return
    place = FETCHED / kind.package
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    # In a user namespace apt can't become another user, as it does for downloads.
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "-q", "download", kind.package]
    try:
        subprocess.run(command, cwd=place, capture_output=True, timeout=_FETCH_SECONDS, check=True)
        for package in place.glob("*.deb"):
            unpack = ["dpkg-deb", "--extract", os.fspath(package), os.fspath(place)]
            subprocess.run(unpack, capture_output=True, timeout=_FETCH_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(place, ignore_errors=True)
        return
    yield from _fetched(kind)
