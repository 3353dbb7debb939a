"""When a run of the cluster ring fails by what it asked of the API server: a run of two tests with a log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cluster import sandbox
from tests.cluster.audit import Call, Outcome
from tests.e2e import least_privilege

ROOT: Final = Path(__file__).parents[3]
USER: Final = "system:serviceaccount:home:worker"
UNUSED: Final = "granted, and needed by no test: home:worker by Role work: list secrets in home"
CONFTEST: Final = """
from pathlib import Path
from tests.e2e.least_privilege import Privileges

def pytest_configure(config):
    here = Path(__file__).parent
    config.pluginmanager.register(Privileges("home", here, here / "roles.yaml"))
"""


def role(*verbs: str) -> str:
    """A role with these rights to Secrets, and its binding."""
    metadata = {"name": "work", "namespace": "home"}
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": list(verbs)}
    subjects = [{"kind": "ServiceAccount", "name": "worker", "namespace": "home"}]
    reference = {"kind": "Role", "name": "work"}
    return yaml.safe_dump_all(
        [
            {"kind": "Role", "metadata": metadata, "rules": [rule]},
            {"kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": subjects},
        ]
    )


def line(verb: str, decision: str = "allow") -> str:
    event: dict[str, Any] = {
        "auditID": verb,
        "verb": verb,
        "user": {"username": USER},
        "objectRef": {"resource": "secrets", "namespace": "home"},
        "responseStatus": {"code": 200 if decision == "allow" else 403},
        "annotations": {"authorization.k8s.io/decision": decision},
    }
    return json.dumps(event)


class Ring:
    """Two tests, and what an API server has logged meanwhile."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.folder, self._environment = folder, {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "roles.yaml").write_text(role("get", "list"))
        (folder / "test_first.py").write_text("def test_it(): pass")
        (folder / "test_second.py").write_text("def test_it(): pass")
        (folder / "control-plane").mkdir()
        (folder / "control-plane" / "audit.log").write_text("\n".join(lines))

    def run(self, *arguments: str, cluster: bool = True) -> tuple[int, str]:
        """Exit code and output."""
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments]
        folder = {sandbox.FOLDER_VARIABLE: str(self.folder)} if cluster else {}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **self._environment, **folder},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


def test_a_right_that_nothing_needed_fails_the_whole_ring(tmp_path: Path) -> None:
    code, text = Ring(tmp_path, line("get")).run()
    assert (code, UNUSED in text) == (1, True), text
    assert f"{USER} called: get secrets" in text


@pytest.mark.parametrize("part", [("test_first.py",), ("-k", "first")])
def test_a_part_of_it_need_not_need_every_right(tmp_path: Path, part: tuple[str, ...]) -> None:
    code, text = Ring(tmp_path, line("get")).run(*part)
    assert (code, UNUSED in text) == (0, False), text


def test_a_call_that_was_refused_fails_a_part_as_well(tmp_path: Path) -> None:
    code, text = Ring(tmp_path, line("get"), line("delete", "forbid")).run("test_first.py")
    assert (code, UNUSED in text) == (1, False), text
    assert f"wanted, and not granted: {USER}: delete secrets home/: forbidden" in text


def test_a_ring_with_a_failed_test_does_not_say_what_is_needed(tmp_path: Path) -> None:
    ring = Ring(tmp_path, line("get"))
    (tmp_path / "test_second.py").write_text("def test_it(): assert False")
    code, text = ring.run()
    assert (code, UNUSED in text) == (1, False), text


def test_workers_tell_what_was_called_on_their_clusters(tmp_path: Path) -> None:
    ring = Ring(tmp_path, line("get"), line("list"), line("delete", "forbid"))
    worker = f"--tx=popen//env:{sandbox.FOLDER_VARIABLE}={tmp_path}"
    code, text = ring.run("-d", worker, cluster=False)
    assert (code, UNUSED in text) == (1, False), text
    assert f"wanted, and not granted: {USER}: delete secrets home/: forbidden" in text
    assert f"{USER} called: delete secrets, get secrets, list secrets" in text


@pytest.mark.parametrize("kind", ["secrets", "configmaps"])
def test_what_the_operator_grants_later_may_be_refused_before(kind: str) -> None:
    driver = "system:serviceaccount:dynatrace:oneagent-csi-driver"
    early = Call(driver, "get", "", kind, "dynatrace", "shop", Outcome.FORBIDDEN)
    assert not least_privilege.findings([], [early], whole=False)
    for other in (
        Call(driver, "list", "", kind, "dynatrace", "", Outcome.FORBIDDEN),
        Call(driver.replace("csi-driver", "webhook"), "get", "", kind, "dynatrace", "shop", Outcome.FORBIDDEN),
        Call(driver, "get", "", kind, "dynatrace", "shop", Outcome.INCOMPLETE),
    ):
        assert least_privilege.findings([], [early, other], whole=False) == [f"wanted, and not granted: {other}"]
