"""What is taken out of an image's distributions, and what of them still works."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.image import slim

MINIMAL = b"\x7fELF\x02\x01"


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def test_generated_classes_and_tests_go_and_everything_else_stays(tmp_path: Path) -> None:
    goes = (
        "kubernetes/client/api/core_v1_api.py",
        "kubernetes/aio/client/models/v1_pod.py",
        "kubernetes/client/models/v1_object_meta.py",
        "pygments/lexers/python.py",
        "websocket/tests/test_url.py",
        "multidict/_multidict.pyi",
    )
    stays = (
        "kubernetes/client/api/__init__.py",
        "kubernetes/client/models/__init__.py",
        "kubernetes/aio/client/api_client.py",
        "pygments/lexers/__init__.py",
        "pygments/lexers/_mapping.py",
        "aiohttp/test_utils.py",
    )
    make(tmp_path, *goes, *stays)
    slim.remove(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(stays)


@pytest.mark.parametrize("name", slim.KEPT)
def test_what_is_kept_exists(name: str) -> None:
    site_packages = Path(str(importlib.util.find_spec("kubernetes").origin)).parents[1]  # type: ignore[union-attr]
    assert (site_packages / name).exists()


def test_an_extension_module_works_without_what_only_debuggers_read(tmp_path: Path) -> None:
    original = Path(str(importlib.util.find_spec("_cffi_backend").origin))  # type: ignore[union-attr]
    copy = tmp_path / original.name
    copy.write_bytes(slim.stripped(original.read_bytes()))
    assert copy.stat().st_size < original.stat().st_size
    ask = "import _cffi_backend; print(_cffi_backend.__file__, _cffi_backend.FFI().sizeof('long'))"
    done = subprocess.run(
        [sys.executable, "-c", ask], check=False, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(copy), "8"], done.stderr


def test_stripping_twice_changes_nothing() -> None:
    once = slim.stripped(Path(shutil.which("true") or "/bin/true").read_bytes())
    assert slim.stripped(once) == once


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", MINIMAL, b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_elf_file_of_64_bits_stays_as_it_is(content: bytes) -> None:
    assert slim.stripped(content) == content


def test_nothing_that_is_loaded_is_lost() -> None:
    header = bytearray(64)
    header[:6] = MINIMAL
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<QHH", header, 40, 300, 0, 0)
    struct.pack_into("<HH", header, 54, 56, 2)
    segments = b"".join(struct.pack("<IIQQQQQQ", 1, 5, at, at, at, size, size, 1) for at, size in ((0, 176), (200, 50)))
    content = bytes(header) + segments + b"-" * 24 + b"x" * 50 + b"symbols" * 10
    short = slim.stripped(content)
    assert len(short) == 250
    assert short[64:] == content[64:250]
