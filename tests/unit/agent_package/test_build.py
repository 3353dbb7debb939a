"""The package's build: locks, byte code and zip; and the package itself, where `make agent-package` has built it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from deploy.agents.opentelemetry import build

from tests import preload

ROOT = build.SOURCES.parents[2]
TREE = ROOT / "build/agent-package/tree"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class TestLocks:
    def test_each_entry_has_hashes(self) -> None:
        requirements = (build.SOURCES / "python/requirements.lock").read_text()
        entries = re.split(r"\n(?=\S)", requirements.strip())
        assert len(entries) > 50
        assert all("--hash=sha256:" in entry for entry in entries)
        assert ";" not in requirements, "pip evaluates no marker for another Python than its own"
        packages = json.loads((build.SOURCES / "node/package-lock.json").read_text())["packages"]
        assert all("integrity" in entry for name, entry in packages.items() if name)
        assert re.fullmatch(r"\S+:\S+:\S+ sha256:[0-9a-f]{64}\n", (build.SOURCES / "java.lock").read_text())

    def test_none_names_a_registry(self) -> None:
        for lock in (build.SOURCES / "python/requirements.lock", ROOT / "requirements-preload.lock"):
            assert "://" not in lock.read_text()
        assert '"resolved"' not in (build.SOURCES / "node/package-lock.json").read_text()

    def test_the_dockerfile_compiles_for_every_python(self) -> None:
        text = (build.SOURCES / "Dockerfile").read_text()
        assert tuple(re.findall(r"^FROM \S+:(3\.\d+)\S+ AS python3", text, re.MULTILINE)) == build.VERSIONS


class TestBytecode:
    def test_it_is_used_whatever_the_time_of_its_source(self, tmp_path: Path) -> None:
        source = tmp_path / "agent/python/packages/some.py"
        source.parent.mkdir(parents=True)
        source.write_text("value = 'compiled'")
        for libc in build.PLATFORMS:
            (tmp_path / f"agent/python/{libc}/{VERSION}").mkdir(parents=True)
            (tmp_path / f"agent/python/{libc}/sitecustomize.py").touch()
        build.add_bytecode(tmp_path / "agent", [sys.executable])
        source.write_text("value = 'source, longer than before'")
        os.utime(source, (1, 1))
        command = [sys.executable, "-c", "import some; print(some.value)"]
        run = subprocess.run(
            command, env={"PYTHONPATH": str(source.parent)}, capture_output=True, text=True, check=True
        )
        assert run.stdout == "compiled\n"


class TestZip:
    def test_equal_trees_give_equal_bytes(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name / "agent/b").mkdir(parents=True)
            (tmp_path / name / "agent/b/file").write_text("1")
            (tmp_path / name / "agent/a").write_text("2" * 1000)
            os.utime(tmp_path / name / "agent/a", (len(name), 1))
            build.write_zip(tmp_path / name, tmp_path / f"{name}.zip")
        os.chmod(tmp_path / "two/agent/a", 0o600)
        build.write_zip(tmp_path / "two", tmp_path / "two.zip")
        assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
        with zipfile.ZipFile(tmp_path / "one.zip") as archive:
            assert archive.namelist() == ["agent/a", "agent/b/file"]
            assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}

    def test_a_package_of_the_same_inputs_is_not_built_again(self, tmp_path: Path) -> None:
        library, zipped = tmp_path / "libotelinject.so", tmp_path / "opentelemetry.zip"
        library.write_bytes(b"one")
        # Without the parts that need a registry.
        arguments = ["--part=library", f"--library={library}", f"--zip={zipped}", str(tmp_path / "tree")]
        command = [sys.executable, str(build.SOURCES / "build.py"), *arguments]

        def built() -> str:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        assert "up to date" not in built()
        before = zipped.read_bytes()
        (tmp_path / "tree/agent/old").touch()
        (tmp_path / "tree/notes").touch()
        assert "up to date" in built()
        library.write_bytes(b"two")
        assert "up to date" not in built()
        assert zipped.read_bytes() != before
        assert not (tmp_path / "tree/agent/old").exists()
        assert (tmp_path / "tree/notes").exists()


@pytest.mark.skipif(not TREE.exists(), reason="the package is not built: make agent-package")
class TestPackage:
    def test_it_has_what_is_documented(self) -> None:
        page = (ROOT / "docs/agents.md").read_text().partition("## Contents")[2].partition("\n## ")[0]
        documented = re.findall(r"^\| `(agent/[^`]*)`(?:, `(agent/[^`]*)`)? \|", page, re.MULTILINE)
        paths = [path for pair in documented for path in pair if path]
        assert {preload.LIBRARY, preload.JAVA_AGENT, preload.NODE_AGENT} <= {*paths}
        # Its users name their collector's CA.
        assert [path for path in paths if not (TREE / path).exists()] == ["agent/conf/exporter-ca.crt"]

    def test_any_user_can_read_it(self) -> None:
        assert [path for path in TREE.rglob("*") if path.stat().st_mode & 0o777 not in (0o644, 0o755)] == []

    def test_an_unmodified_program_of_python_sends_its_spans(self) -> None:
        program = "import urllib.request\ntry: urllib.request.urlopen('http://127.0.0.1:1')\nexcept OSError: pass"
        variables = {"LD_PRELOAD": str(TREE / preload.LIBRARY), "OTEL_TRACES_EXPORTER": "console"}
        variables |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
        run = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
        assert '"name": "GET"' in run.stdout
        assert '"http.url": "http://127.0.0.1:1"' in run.stdout
        assert run.stderr == ""
