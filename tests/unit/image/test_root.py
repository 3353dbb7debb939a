"""A root file system with nothing in it but Python."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.image import root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0 and shutil.which("ldconfig", path="/sbin:/usr/sbin"):
        pytest.skip("ldconfig changes its root, which needs root")
    folder = tmp_path_factory.mktemp("root") / "root"
    subprocess.run([sys.executable, root.__file__, folder, tmp_path_factory.mktemp("none")], check=True)
    return folder


def test_python_of_it_loads_its_libraries_from_it(made: Path) -> None:
    python = Path(sys.base_prefix, "bin/python3").resolve()
    loader = root.loader(python.read_bytes())
    told = root.libraries(loader, [python])
    assert Path(loader) in told
    for library in told:
        assert (made / library.resolve().relative_to("/")).is_file(), library


def test_python_runs_in_it(made: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    python = str(Path(sys.base_prefix, "bin/python3"))
    ask = "import ctypes, hashlib, json, lzma, socket, sqlite3, ssl, zlib; print(ssl.OPENSSL_VERSION)"
    done = subprocess.run(["chroot", str(made), python, "-c", ask], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_in_it_runs_other_programs_or_as_somebody_else(made: Path) -> None:
    programs = {path.name for path in made.rglob("bin/*") if path.is_file()}
    assert all(name.startswith("python") for name in programs), programs
    assert not [path for path in made.rglob("*") if path.is_file() and path.stat().st_mode & 0o6000]
    assert not list(made.rglob("ensurepip"))


def test_files_are_told_with_the_package_that_they_are_of() -> None:
    if shutil.which("dpkg-query") is None:
        pytest.skip("this machine has no dpkg")
    shell, loader = Path("/bin/sh").resolve(), Path(root.loader(Path(sys.executable).read_bytes())).resolve()
    found = root.packages([shell, loader, Path("/nowhere")])
    assert found[str(shell)]["name"] == "dash"
    assert found[str(loader)]["name"] == "libc6"
    assert set(found[str(shell)]) == {"name", "version", "architecture"}
    assert found["/nowhere"] == {}


def test_libraries_come_with_their_licences(made: Path) -> None:
    terms = Path("/usr/share/doc/libc6/copyright")
    if not terms.exists():
        pytest.skip("this machine keeps no licences of packages")
    assert (made / terms.relative_to("/")).read_text() == terms.read_text()


def test_a_library_that_is_missing_is_told_of(tmp_path: Path) -> None:
    original = Path(str(importlib.util.find_spec("_cffi_backend").origin))  # type: ignore[union-attr]
    python = Path(sys.base_prefix, "bin/python3").resolve()
    broken = tmp_path / "broken.so"
    broken.write_bytes(original.read_bytes().replace(b"libc.so.6\0", b"libq.so.6\0"))
    with pytest.raises(FileNotFoundError, match=r"broken\.so: .*libq\.so\.6"):
        root.libraries(root.loader(python.read_bytes()), [broken])
