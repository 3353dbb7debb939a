"""What the Dockerfile says about itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
TEXT: Final = (ROOT / "Dockerfile.csi").read_text()
COMMANDS: Final = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))


def test_the_base_is_pinned_by_its_digest_and_everything_comes_from_it() -> None:
    assert re.search(r"^ARG BASE_IMAGE=\S+:3\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}$", COMMANDS, re.MULTILINE)
    stages = re.findall(r"^FROM (\S+)", COMMANDS, re.MULTILINE)
    assert stages == ["${BASE_IMAGE}", "scratch", "scratch"]


def test_nothing_in_it_names_a_machine() -> None:
    assert not re.search(r"x86|amd64|arm64|aarch64|linux-gnu|TARGETARCH", COMMANDS)


def test_its_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"ARG VERSION={project['version']} " in COMMANDS


def test_it_runs_as_nobody_and_has_no_health_of_its_own() -> None:
    last = COMMANDS[COMMANDS.rindex("FROM scratch") :]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert "HEALTHCHECK" not in last
