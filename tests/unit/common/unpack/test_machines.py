"""A package whose preload library is for another machine is refused as a whole: no loader here would take it."""

from __future__ import annotations

import os
import platform
import struct
import zipfile
from pathlib import Path

import pytest

from oneagent.common.agents import oneagent
from oneagent.common.unpack import UnsupportedPackageError, agent_layout, image, zip
from tests.fakes import images as fakes
from tests.fakes import packages as agents
from tests.fakes.images import Entry

MACHINES = {"x86_64": (2, 1, 62), "aarch64": (2, 1, 183), "ppc64le": (2, 1, 21), "s390x": (2, 2, 22)}
OTHER = "aarch64" if platform.machine() != "aarch64" else "x86_64"


def elf(wordsize: int, order: int, machine: int) -> bytes:
    """The beginning of a library, as elf(5) has it."""
    return struct.pack("4sBBB9x", b"\x7fELF", wordsize, order, 1) + struct.pack("<>"[order - 1] + "HH", 3, machine)


@pytest.mark.parametrize("made_for", MACHINES)
@pytest.mark.parametrize("node", MACHINES)
def test_every_machine_takes_its_own_library_only(made_for: str, node: str) -> None:
    library = elf(*MACHINES[made_for])
    if made_for == node:
        agent_layout.check_machine(library, node)
    else:
        with pytest.raises(UnsupportedPackageError, match=f"is for {made_for}, this node is {node}$"):
            agent_layout.check_machine(library, node)


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (elf(1, 1, 3), "is for machine 3 of ELF with 32 bits, little-endian, this node is x86_64"),
        (elf(1, 1, 62), "is for machine 62 of ELF with 32 bits, little-endian"),
        (elf(2, 2, 21), "is for machine 21 of ELF with 64 bits, big-endian"),
        (elf(2, 1, 243), "is for machine 243 of ELF with 64 bits, little-endian"),
    ],
)
def test_a_machine_without_agents_is_named_by_its_number(library: bytes, said: str) -> None:
    with pytest.raises(UnsupportedPackageError, match=said):
        agent_layout.check_machine(library, "x86_64")


@pytest.mark.parametrize("library", [b"", b"\x7fELF", b"\x7fELF" + b"text" * 9, elf(*MACHINES["x86_64"])[:19]])
def test_what_is_for_no_machine_is_not_judged(library: bytes) -> None:
    agent_layout.check_machine(library, "x86_64")


def test_a_machine_that_nobody_knows_takes_every_library() -> None:
    agent_layout.check_machine(elf(*MACHINES["x86_64"]), "riscv64")


def test_a_library_of_this_machine_s_distribution_is_taken() -> None:
    agent_layout.check_machine(agents.loadable().read_bytes()[: agent_layout.HEADER_BYTES])


@pytest.mark.parametrize("prefix", ["", agents.NESTED])
def test_a_zip_for_another_machine_leaves_nothing_behind(tmp_path: Path, prefix: str) -> None:
    package, library = tmp_path / "package.zip", tmp_path / "library"
    library.write_bytes(elf(*MACHINES[OTHER]))
    agents.build(package, prefix=prefix, library=library)
    with pytest.raises(UnsupportedPackageError, match=f"^{oneagent.PRELOAD_LIBRARY} is for {OTHER}, this node is "):
        zip.unpack_agent(package, tmp_path / "tree")
    assert os.listdir(tmp_path / "tree") == []


@pytest.mark.parametrize("prefix", ["", agents.NESTED])
def test_an_image_for_another_machine_leaves_nothing_behind(tmp_path: Path, prefix: str) -> None:
    """Whatever its configuration says: that is written by whoever builds the image."""
    layer = tmp_path / "layer"
    layer.write_bytes(fakes.compress(fakes.tar(Entry(prefix + oneagent.PRELOAD_LIBRARY, elf(*MACHINES[OTHER])))))
    with pytest.raises(UnsupportedPackageError, match=f"^{oneagent.PRELOAD_LIBRARY} is for {OTHER}, this node is "):
        image.read([layer]).unpack(tmp_path / "tree")
    assert os.listdir(tmp_path / "tree") == []


def test_what_lies_beside_the_library_may_be_for_any_machine(tmp_path: Path) -> None:
    package = agents.build(tmp_path / "package.zip")
    with zipfile.ZipFile(package, "a") as opened:
        agents.write(opened, "agent/lib/other.so", elf(*MACHINES[OTHER]))
    assert (zip.unpack_agent(package, tmp_path / "tree").root / "agent/lib/other.so").exists()
