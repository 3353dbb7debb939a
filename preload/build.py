"""Build `libotelinject.so` for each machine with zig's C compiler.

    python preload/build.py [--compiler ZIG] [--machine MACHINE] DIRECTORY

Writes `DIRECTORY/<machine>/libotelinject.so`, MACHINE as `uname -m` names it, by default all. The compiler is the one
of the wheel `ziglang` beside this Python unless its path is given. It brings all that it needs for every machine, so
the same source gives the same bytes on every machine. Only the standard library is imported, because the
package's image is built with it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("otelinject.c")
NAME = "libotelinject.so"
MACHINES = ("x86_64", "aarch64")
FLAGS = (
    *("-shared", "-fPIC", "-O2", "-std=c11", "-s"),
    # No libc: neither its headers, nor calls to it that a compiler would put in for a loop, nor a symbol to bind.
    *("-ffreestanding", "-fno-builtin", "-nostdlib", "-fvisibility=hidden", "-fno-stack-protector"),
    *("-fno-sanitize=all", "-fno-asynchronous-unwind-tables", "-Wall", "-Wextra", "-Werror"),
    f"-Wl,-soname,{NAME}",
    # Old loaders of musl know only the table `hash`, new ones of glibc prefer `gnu.hash`.
    *("-Wl,-z,relro", "-Wl,-z,now", "-Wl,--build-id=none", "-Wl,--hash-style=both"),
)


def build(compiler: list[str], machine: str, directory: Path) -> Path:
    """Build the library for one machine; `subprocess.CalledProcessError` if it does not compile."""
    path = directory / machine / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is complete: an interrupted build leaves no library behind.
    part = path.with_name(f".{NAME}.{os.getpid()}")
    # From its own directory, so that no path of this machine comes into the file.
    subprocess.run(
        [*compiler, "cc", "-target", f"{machine}-linux-none", *FLAGS, SOURCE.name, "-o", part.absolute()],
        cwd=SOURCE.parent,
        check=True,
    )
    part.chmod(0o644)
    part.rename(path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="preload/build.py", description="Build the preload library.")
    parser.add_argument("--compiler", metavar="ZIG", help="path of zig (default: of the wheel ziglang)")
    parser.add_argument("--machine", choices=MACHINES, help="default: all")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    given = parser.parse_args()
    compiler = [os.path.abspath(given.compiler)] if given.compiler else [sys.executable, "-m", "ziglang"]
    for machine in [given.machine] if given.machine else MACHINES:
        print(build(compiler, machine, given.directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
