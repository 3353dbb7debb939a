"""The start of the agent in Python: in real processes, with a stand-in for OpenTelemetry's own packages."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.agents.opentelemetry import build

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
STAND_IN = """
import os, sys
def initialize():
    print("started", os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"])
    if os.environ.get("FAIL"):
        raise ValueError("bad")
"""


class Package:
    """The directory that is put into PYTHONPATH, and the packages beside it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "python/glibc"
        (self.directory / VERSION).mkdir(parents=True)
        (self.directory / "sitecustomize.py").write_bytes((build.SOURCES / "python/sitecustomize.py").read_bytes())
        self.add("python/packages/opentelemetry/instrumentation/auto_instrumentation/__init__.py", STAND_IN)

    def add(self, path: str, content: str) -> None:
        (self.place / path).parent.mkdir(parents=True, exist_ok=True)
        (self.place / path).write_text(content)

    def run(self, program: str, *path: str, **variables: str) -> str:
        """Return what a process prints, errors included."""
        environment = {"PYTHONPATH": os.pathsep.join((str(self.directory), *path)), **variables}
        command = [sys.executable, "-c", program]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=self.place)
        return run.stdout + run.stderr


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_the_agent_starts_before_the_application(package: Package) -> None:
    assert package.run("print('application')") == "started http/protobuf\napplication\n"


def test_its_packages_come_after_the_applications_own(package: Package) -> None:
    package.add("own/shared.py", "name = 'own'")
    package.add("python/packages/shared.py", "name = 'package'")
    package.add("python/packages/other.py", "name = 'package'")
    printed = package.run("import shared, other; print(shared.name, other.name)", str(package.place / "own"))
    assert printed.endswith("own package\n")


def test_the_directory_itself_is_not_on_the_path_of_the_application(package: Package) -> None:
    printed = package.run("import sys; print(*sys.path, sep='\\n')")
    assert str(package.directory) not in printed.splitlines()


def test_the_applications_sitecustomize_runs_too(package: Package) -> None:
    package.add("own/sitecustomize.py", "print('hidden')\nvalue = 1")
    printed = package.run("import sitecustomize; print(sitecustomize.value)", str(package.place / "own"))
    assert printed == "started http/protobuf\nhidden\n1\n"


def test_an_error_in_the_applications_sitecustomize_is_reported_as_without_the_agent(package: Package) -> None:
    package.add("own/sitecustomize.py", "raise ValueError('own error')")
    printed = package.run("print('application')", str(package.place / "own"))
    assert "own error" in printed
    assert "application" in printed


def test_an_agent_that_fails_leaves_the_application_as_it_is(package: Package) -> None:
    assert package.run("print('application')", FAIL="1") == "started http/protobuf\napplication\n"
    package.add("python/packages/opentelemetry/instrumentation/auto_instrumentation/__init__.py", "import absent")
    assert package.run("print('application')") == "application\n"


def test_a_python_that_the_package_does_not_have_starts_without_an_agent(package: Package) -> None:
    (package.directory / VERSION).rename(package.directory / "2.0")
    assert package.run("print('application')") == "application\n"


def test_a_protocol_that_the_package_does_not_speak_starts_no_agent(package: Package) -> None:
    assert package.run("print('application')", OTEL_EXPORTER_OTLP_PROTOCOL="grpc") == "application\n"
    assert "started" in package.run("print('application')", OTEL_EXPORTER_OTLP_PROTOCOL="")


def test_an_old_python_3_can_read_it() -> None:
    source = (build.SOURCES / "python/sitecustomize.py").read_text()
    tree = ast.parse(source, feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr))]
