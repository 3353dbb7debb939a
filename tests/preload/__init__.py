"""The preload library of OpenTelemetry's package, a view that has it, and programs in C to try it with.

`make preload` installs the compiler and builds the library. Without it tests are skipped with that reason; in CI they
fail instead, so that a green run there means that the library was tried.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

LIBRARY: Final = "agent/lib64/libotelinject.so"
JAVA_AGENT: Final = "agent/java/opentelemetry-javaagent.jar"
NODE_AGENT: Final = "agent/node/register.js"
PYTHON_AGENTS: Final = {"glibc": "agent/python/glibc", "musl": "agent/python/musl"}
MUSL_LOADER: Final = f"/lib/ld-musl-{platform.machine()}.so.1"

MAX_ADDED: Final = 256
"""Variables that files can add."""
MAX_VARIABLE_BYTES: Final = 128 * 1024
"""With its name; the kernel executes no program with a longer one."""

SOURCES: Final = Path(__file__).parent

_ROOT: Final = SOURCES.parents[1]
_BUILD: Final = _ROOT / "build"
_COMPILER: Final = _BUILD / "compiler/ziglang/zig"
_TARGETS: Final = {"glibc": "linux-gnu.2.17", "musl": "linux-musl"}


class NotBuiltError(Exception):
    """The library or its compiler is missing; the message has the remedy."""


def find_library(machine: str = platform.machine()) -> Path:
    """Return the built library for a machine; `NotBuiltError`."""
    path = _BUILD / "preload" / machine / "libotelinject.so"
    source = _ROOT / "preload/otelinject.c"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        raise NotBuiltError(f"{path.relative_to(_ROOT)} is not built, or older than its source: run make preload")
    return path


def library(machine: str = platform.machine()) -> Path:
    """Return the built library for a machine; skips the calling test where it is not built."""
    try:
        return find_library(machine)
    except NotBuiltError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def compile_program(source: str, to: Path, *flags: str, libc: str = "glibc", machine: str = platform.machine()) -> Path:
    """Compile a C file beside this module to a program, which is dynamically linked; skips without a compiler."""
    library()
    command = [str(_COMPILER), "cc", "-target", f"{machine}-{_TARGETS[libc]}", "-O2", "-fno-sanitize=all", "-pthread"]
    command += ["-dynamic"] if libc == "musl" else []
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(_BUILD / "compiler/cache")}
    subprocess.run([*command, SOURCES / source, *flags, "-o", to], env=environment, check=True)
    return to


class View:
    """A directory as a pod has it, with the library and files in the agents' places."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.library = place / LIBRARY
        self.java_option = f"-javaagent:{place / JAVA_AGENT}"
        self.node_option = f"--require {place / NODE_AGENT}"
        self.library.parent.mkdir(parents=True)
        self.library.write_bytes(find_library().read_bytes())
        for agent in (JAVA_AGENT, NODE_AGENT):
            (place / agent).parent.mkdir()
            (place / agent).touch()
        for directory in PYTHON_AGENTS.values():
            (place / directory).mkdir(parents=True)
        (place / "agent/conf").mkdir()

    def configure(self, name: str, content: str | bytes) -> None:
        """Write `container` or `opentelemetry`, the files of variables."""
        data = content.encode() if isinstance(content, str) else content
        (self.place / f"agent/conf/{name}.env").write_bytes(data)

    def run(self, program: Path | str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        """Run a program with the library and no other variables than those given."""
        environment = {"LD_PRELOAD": str(self.library), **variables}
        return subprocess.run([program, *arguments], env=environment, capture_output=True, check=False, timeout=120)

    def environment(self, program: Path | str, *arguments: str, **variables: str) -> dict[str, str]:
        """Return the environment that the probe prints, without LD_PRELOAD; fails if it prints anything else."""
        run = self.run(program, *arguments, **variables)
        assert (run.returncode, run.stderr) == (0, b"")
        return {name: value for name, value in entries(run.stdout)[1].items() if name != "LD_PRELOAD"}


def entries(printed: bytes) -> tuple[str, Mapping[str, str]]:
    """Return what the probe printed: "same" or "new", and the variables, none of them twice."""
    array, *lines = printed.decode(errors="surrogateescape").removesuffix("\0").split("\0")
    pairs = [(name, value) for name, _, value in (line.partition("=") for line in lines)]
    assert len(dict(pairs)) == len(pairs), f"a variable twice: {pairs}"
    return array, dict(pairs)
