"""The library's file: what it needs of a loader, on both machines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import preload
from tests.preload import View

ROOT = Path(preload.__file__).parents[2]
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not on this machine")
@pytest.mark.parametrize(("machine", "name"), [("x86_64", "X86-64"), ("aarch64", "AArch64")])
def test_it_needs_no_library_and_only_weak_symbols(machine: str, name: str) -> None:
    command = ["readelf", "-W", "-h", "-l", "-d", "--dyn-syms", str(preload.library(machine))]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert name in found
    assert "DYN (Shared object file)" in found
    assert "(NEEDED)" not in found
    assert "(TEXTREL)" not in found
    assert re.search(r"GNU_STACK .* RW ", found), "the stack stays without execution"
    symbols = re.findall(r"^ +\d+: .* (\w+) +DEFAULT +UND (\w+)$", found, re.MULTILINE)
    assert sorted(symbols) == [(kind, symbol) for kind, symbol in sorted(symbols) if kind == "WEAK"]
    assert {symbol for _, symbol in symbols} == {"__environ", "environ", "_environ", "gnu_get_libc_version"}
    assert not re.search(r"GLOBAL DEFAULT +\d", found), "it defines no symbol that could hide another library's"


def test_it_is_small() -> None:
    assert preload.library().stat().st_size < 16 * 1024


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    built = preload.library()
    compiler = ("--compiler", str(ROOT / "build/compiler/ziglang/zig"))
    command = [sys.executable, str(ROOT / "preload/build.py"), *compiler, str(tmp_path)]
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(ROOT / "build/compiler/cache")}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (tmp_path / os.uname().machine / "libotelinject.so").read_bytes() == built.read_bytes()


@pytest.mark.skipif(QEMU is None, reason="qemu-aarch64 (qemu-user-static) is not on this machine")
def test_on_the_other_machine_it_does_the_same(tmp_path: Path) -> None:
    """The library and musl's own start code, statically joined, because no loader for aarch64 is on this machine."""
    assert QEMU
    built = preload.library("aarch64")
    flags = (str(ROOT / "preload/otelinject.c"), "-static", "-ffreestanding", "-fno-builtin")
    program = preload.compile_program("probe.c", tmp_path / "java", *flags, libc="musl", machine="aarch64")
    view = View(tmp_path / "view")
    view.library.write_bytes(built.read_bytes())
    view.configure("opentelemetry", "OTEL_RESOURCE_ATTRIBUTES=a=1,b=2\n")
    run = view.run(QEMU, str(program), OTEL_RESOURCE_ATTRIBUTES="b=own")
    if run.stdout.startswith(b"same"):
        pytest.skip("this emulator does not name the program by /proc/self/exe")
    assert preload.entries(run.stdout)[1] == {
        "LD_PRELOAD": str(view.library),
        "JAVA_TOOL_OPTIONS": view.java_option,
        "OTEL_RESOURCE_ATTRIBUTES": "b=own,a=1",
    }
