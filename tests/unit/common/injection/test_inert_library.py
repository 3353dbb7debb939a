"""The inert library, loaded by the loaders of this machine into real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.injection import inert_library
from tests.fakes import elf
from tests.fakes.provisioner import eventually

MACHINES = ("x86_64", "aarch64")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    place(tmp_path)
    return tmp_path / PRELOAD_LIBRARY


def place(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        inert_library.write(descriptor)
    finally:
        os.close(descriptor)


def test_a_process_of_glibc_loads_it_and_prints_nothing(library: Path) -> None:
    program = "import sys; print('\\n'.join(line for line in open('/proc/self/maps') if 'oneagentproc' in line))"
    run = subprocess.run(
        [sys.executable, "-c", program], env={"LD_PRELOAD": str(library)}, capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    assert str(library) in run.stdout
    assert "x" not in run.stdout.split()[1], "no part of it is executable"


@pytest.mark.skipif(not os.path.exists(elf.MUSL), reason=f"musl's loader {elf.MUSL} is not on this machine")
def test_a_process_of_musl_loads_it_and_prints_nothing(library: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(elf.waiting())
    program.chmod(0o755)
    with subprocess.Popen([program], env={"LD_PRELOAD": str(library)}, stderr=subprocess.PIPE) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        eventually(lambda: process.poll() is not None or str(library) in maps.read_text())
        assert process.poll() is None
        process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not on this machine")
@pytest.mark.parametrize(("machine", "name"), [("x86_64", "X86-64"), ("aarch64", "AArch64")])
def test_readelf_finds_a_shared_object_that_needs_nothing(tmp_path: Path, machine: str, name: str) -> None:
    path = tmp_path / "inert.so"
    path.write_bytes(inert_library.render(machine))
    run = subprocess.run(["readelf", "-W", "-h", "-l", "-d", path], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert name in run.stdout
    assert "DYN (Shared object file)" in run.stdout
    assert "(NEEDED)" not in run.stdout
    assert "GNU_STACK" in run.stdout
    assert " E " not in run.stdout.partition("Program Headers")[2], "no segment is executable"


@pytest.mark.parametrize("machine", MACHINES)
def test_it_is_told_from_an_agents_library(tmp_path: Path, machine: str) -> None:
    inert, agent, short = tmp_path / "inert.so", tmp_path / "agent.so", tmp_path / "short.so"
    inert.write_bytes(inert_library.render(machine))
    agent.write_bytes(inert_library.render(machine) + bytes(1024))
    short.write_bytes(b"\x7fELF")
    assert [inert_library.is_inert(str(path)) for path in (inert, agent, short)] == [True, False, False]


def test_any_user_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        place(tmp_path)
    finally:
        os.umask(before)
    library = tmp_path / PRELOAD_LIBRARY
    assert library.stat().st_mode & 0o777 == 0o644
    assert {parent.stat().st_mode & 0o777 for parent in (library.parent, library.parent.parent)} == {0o755}


def test_what_is_there_already_stays(library: Path, tmp_path: Path) -> None:
    library.write_text("agent")
    place(tmp_path)
    assert library.read_text() == "agent"


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    outside, view = tmp_path / "outside", tmp_path / "view"
    outside.mkdir()
    view.mkdir()
    (view / "agent").symlink_to(outside)
    with pytest.raises(OSError, match="agent"):
        place(view)
    assert list(outside.iterdir()) == []


def test_a_machine_that_is_not_known_has_none() -> None:
    assert inert_library.render("s390x") == b""
