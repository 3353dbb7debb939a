"""Byte code for what is imported, as it is in an image."""

from __future__ import annotations

import importlib.util
import marshal
import os
import subprocess
import sys
from pathlib import Path

from deploy.image import bytecode


def compile_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Without what the tests need, of which there may be parts below the same name.
    script = (
        "import sys, runpy; from deploy.image import bytecode; bytecode.LATER = (); "
        f"sys.argv[1:] = {list(arguments)!r}; bytecode.main()"
    )
    place = os.pathsep.join((str(folder), str(Path(bytecode.__file__).parents[1])))
    command = [sys.executable, "-B", "-S", "-c", script]
    return subprocess.run(command, env={"PYTHONPATH": place}, capture_output=True, text=True, check=False)


def test_what_a_module_of_ours_imports_gets_byte_code_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "oneagent" / "part").mkdir(parents=True)
    (tmp_path / "oneagent/part/__init__.py").write_text("")
    (tmp_path / "oneagent/part/work.py").write_text("import wanted\n")
    (tmp_path / "oneagent/part/__main__.py").write_text("raise SystemExit(1)\n")
    (tmp_path / "wanted.py").write_text("def where(): pass\n")
    (tmp_path / "unwanted.py").write_text("")
    done = compile_in(tmp_path, f"{tmp_path}=/opt/there")
    assert done.returncode == 0, done.stderr
    compiled = {path.name.partition(".")[0]: path for path in tmp_path.rglob("*.pyc")}
    assert set(compiled) == {"__init__", "work", "wanted"}
    content = compiled["wanted"].read_bytes()
    # Flags of a file that is checked against nothing (PEP 552), then the code.
    assert content[:8] == importlib.util.MAGIC_NUMBER + b"\1\0\0\0"
    assert marshal.loads(content[16:]).co_filename == "/opt/there/wanted.py"


def test_what_is_imported_and_was_not_copied_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "oneagent").mkdir()
    (tmp_path / "oneagent/work.py").write_text("")
    done = compile_in(tmp_path, f"{tmp_path}=/usr/lib/python@{tmp_path}/layer")
    assert done.returncode == 1
    assert "work.py is imported, and root.py leaves it out" in done.stderr


def test_docstrings_are_left_out_and_assertions_are_not(tmp_path: Path) -> None:
    (tmp_path / "oneagent").mkdir()
    (tmp_path / "oneagent/work.py").write_text(
        '"""Module."""\nclass Thing:\n    """Class."""\ndef work(value):\n    """Function."""\n    assert value\n'
        '    return "text"\nasync def wait():\n    "Coroutine."\n'
    )
    done = compile_in(tmp_path, f"{tmp_path}={tmp_path}")
    assert done.returncode == 0, done.stderr
    compiled = next(tmp_path.rglob("work*.pyc")).read_bytes()
    assert b"text" in compiled
    assert not [word for word in (b"Module.", b"Class.", b"Function.", b"Coroutine.") if word in compiled]
    program = (
        "from oneagent import work; print(work.__doc__, work.Thing.__doc__, work.work.__doc__, work.wait.__doc__)\n"
        "work.work(False)"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["None"] * 4
    assert "AssertionError" in ran.stderr


def test_a_folder_below_may_be_called_as_the_package_is(tmp_path: Path) -> None:
    inner = tmp_path / "oneagent" / "agents" / "oneagent"
    inner.mkdir(parents=True)
    (inner / "layer.py").write_text("")
    assert list(bytecode.modules(tmp_path)) == ["oneagent.agents.oneagent.layer"]
