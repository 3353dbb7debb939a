"""Forms for issues and the workflow of a release: well formed, with few rights, about files and targets that exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deploy import generate, plugin

from oneagent.operator.cli import arguments

ROOT: Final = Path(__file__).parents[3]
FORGE: Final = ROOT / ".github"
FORMS: Final = sorted(path for path in (FORGE / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
MAKEFILE: Final = (ROOT / "Makefile").read_text()
WORKFLOW: Final = (FORGE / "workflows" / "release.yml").read_text()
JOBS: Final[dict[str, dict[str, Any]]] = yaml.load(WORKFLOW, yaml.CSafeLoader)["jobs"]

_TARGETS: Final = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
_PINNED: Final = re.compile(r"[\w-]+/[\w-]+@(?:v\d+(?:\.\d+){0,2}|[0-9a-f]{40})")
_ELEMENTS: Final = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def steps() -> Iterator[dict[str, Any]]:
    for job in JOBS.values():
        yield from job["steps"]


def scripts() -> str:
    return "\n".join(step["run"] for step in steps() if "run" in step)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_the_forge_asks_of_one(path: Path) -> None:
    form = yaml.load(path.read_text(), yaml.CSafeLoader)
    assert set(form) == {"name", "description", "labels", "body"}
    fields = [element for element in form["body"] if element["type"] != "markdown"]
    assert {element["type"] for element in form["body"]} <= _ELEMENTS
    assert len({element["id"] for element in fields}) == len(fields) > 0
    assert all(element["attributes"]["label"] for element in fields)
    assert any(element.get("validations", {}).get("required") for element in fields)


def test_a_form_is_needed_and_a_bug_comes_with_the_support_archive() -> None:
    assert yaml.load((FORGE / "ISSUE_TEMPLATE/config.yml").read_text(), yaml.CSafeLoader) == {
        "blank_issues_enabled": False
    }
    assert [path.stem for path in FORMS] == ["bug", "feature", "question"]
    assert "kubectl oneagent support-archive" in (FORGE / "ISSUE_TEMPLATE/bug.yml").read_text()


def test_files_commands_and_targets_that_are_named_exist() -> None:
    text = "\n".join(path.read_text() for path in FORGE.rglob("*") if path.is_file())
    for name in re.findall(r"(?<![\w/.-])((?:docs|deploy|tests|examples)/[\w./-]*\w|[A-Z]+\.md|\.ci/run)", text):
        assert (ROOT / name).exists() or name == "tests/helm/bin/helm", name
    assert set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", text)) <= _TARGETS
    commands = set(re.findall(r"kubectl oneagent ([a-z-]+)", text))
    assert commands
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            arguments.make_parser().parse_args([command, "--help"])
        assert ended.value.code == 0, command


def test_each_job_has_only_the_rights_that_it_needs() -> None:
    assert yaml.load(WORKFLOW, yaml.CSafeLoader)["permissions"] == {}
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "verify": {"contents": "read"},
        "publish": {"contents": "write", "packages": "write", "id-token": "write"},
    }
    assert all(job["timeout-minutes"] for job in JOBS.values())
    assert JOBS["publish"]["needs"] == "verify"
    for step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}


def test_actions_are_pinned() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used
    for action in used:
        assert _PINNED.fullmatch(action), action


def test_scripts_are_well_formed_and_take_nothing_from_outside_but_by_variables() -> None:
    assert "${{" not in scripts()
    done = subprocess.run(["bash", "-n"], input=scripts(), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_runs_on_a_tag_only_and_names_no_repository() -> None:
    # YAML 1.1 reads the key `on` as true.
    assert yaml.load(WORKFLOW, yaml.CSafeLoader)[True] == {"push": {"tags": ["v*"]}}
    for path in FORGE.rglob("*"):
        if path.is_file():
            assert not re.search(r"github\.com/|ghcr\.io/(?!\$GITHUB_REPOSITORY)\w", path.read_text()), path.name


def test_what_is_released_is_what_the_targets_write() -> None:
    named = set(re.findall(r"\bbuild/([\w.-]+)", scripts()))
    written = {plugin.NAME, f"{plugin.NAME}.tar.gz", "krew.yaml", "image.json", "sbom", "oneagent-csi-"}
    assert named == written
    assert "--metadata-file build/image.json" in MAKEFILE
    assert "dest=build/sbom" in MAKEFILE


def test_the_image_is_built_for_both_machines() -> None:
    command = ["make", "--dry-run", "image-push", "IMAGE=registry.example.com/oneagent-csi:0.1.0"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    image, sbom = (line for line in done.stdout.splitlines() if line.startswith("docker buildx build "))
    assert "--platform linux/amd64,linux/arm64 " in image
    assert "--platform linux/amd64,linux/arm64 " in sbom
    assert "--push" in image
    assert "--target sbom --output type=local,dest=build/sbom" in sbom


@pytest.mark.skipif(not generate.HELM.exists(), reason="Helm is not built: run make helm")
def test_the_chart_becomes_one_file_with_the_version_in_its_name(tmp_path: Path) -> None:
    command = [str(generate.HELM), "package", str(generate.CHART), f"--destination={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["oneagent-csi-0.1.0.tgz"]
