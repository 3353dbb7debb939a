from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest

from oneagent.operator.host_agents import daemonset, secrets, spec
from tests.unit.operator.host_agents import cases

WHOLE = [name for name in cases.names() if "daemonset" in cases.load(name)]


@pytest.mark.parametrize("name", cases.names())
def test_a_dynakube_comes_to_the_daemon_set_of_its_case(name: str) -> None:
    case = cases.load(name)
    if "daemonset" in case:
        assert cases.daemon_set(case) == case["daemonset"]
    else:
        assert cases.changes(case) == case["changes"]


def test_there_is_a_whole_case_for_every_mode() -> None:
    modes = {cases.load(name)["mode"] for name in WHOLE}
    assert modes == {"classicFullStack", "hostMonitoring", "cloudNativeFullStack"}


@pytest.mark.parametrize("name", cases.names())
def test_no_secret_stands_in_a_manifest(name: str) -> None:
    written = json.dumps(cases.daemon_set(cases.load(name)))
    secret = (cases.INPUTS.tenant_token, cases.INPUTS.registry_password, "hunter2")
    assert all(secret) and not [part for part in secret if part in written]


def daemon_set_with(**inputs: Any) -> dict[str, Any]:
    desired = cases.desired({"mode": "hostMonitoring"})
    return daemonset.daemon_set(dataclasses.replace(desired, inputs=dataclasses.replace(desired.inputs, **inputs)))


def test_new_endpoints_and_a_new_operator_restart_no_agent() -> None:
    assert daemon_set_with() == daemon_set_with(
        endpoints=("https://other.example",), operator_version="0.2.0", registry_password="new"
    )


@pytest.mark.parametrize("changed", [{"tenant_token": "new"}, {"tenant": "xyz98765"}])
def test_what_running_agents_do_not_learn_by_themselves_restarts_them(changed: dict[str, Any]) -> None:
    assert daemon_set_with()["spec"]["template"] != daemon_set_with(**changed)["spec"]["template"]


def test_a_new_proxy_in_the_users_secret_restarts_agents_unless_they_ignore_it() -> None:
    case: dict[str, Any] = {"mode": "hostMonitoring", "spec": {"proxy": {"valueFrom": "ours"}}}
    assert cases.daemon_set({**case, "proxy": "http://a"}) != cases.daemon_set({**case, "proxy": "http://b"})
    case["features"] = {"oneagent-ignore-proxy": "true"}
    assert cases.daemon_set({**case, "proxy": "http://a"}) == cases.daemon_set({**case, "proxy": "http://b"})


def test_the_digest_is_the_same_for_the_same_and_another_for_every_other() -> None:
    digests: dict[str, str] = {}
    for name in cases.names():
        whole = cases.daemon_set(cases.load(name))
        digest = whole["metadata"]["annotations"].pop(daemonset.DIGEST)
        assert digests.setdefault(json.dumps(whole, sort_keys=True), digest) == digest
    assert len(set(digests.values())) == len(digests) > 20


def test_the_secret_holds_what_agents_are_told() -> None:
    case = {"mode": "cloudNativeFullStack", "spec": {"proxy": {"value": "http://user:hunter2@proxy.example:3128"}}}
    kube = cases.desired(case).kube
    assert secrets.build_contents(kube, cases.INPUTS) == {
        "tenant-token": "dt0a01.TENANT",
        "communication-endpoints": "https://ag1.example/communication;https://ag2.example/communication",
        "deployment-metadata": (
            "orchestration_tech=Operator-cloud_native_fullstack;script_version=0.1.0;"
            "orchestrator_id=c0ffee00-0000-4000-8000-000000000000"
        ),
        "operator-version": "0.1.0",
        "proxy": "http://user:hunter2@proxy.example:3128",
    }


def test_the_pull_secret_is_what_kubelet_understands() -> None:
    kube = cases.desired({"mode": "classicFullStack"}).kube
    written = json.loads(secrets.build_pull_contents(kube, cases.INPUTS)[".dockerconfigjson"])
    entry = written["auths"]["abc12345.live.dynatrace.com"]
    assert (entry["username"], entry["password"]) == ("abc12345", "dt0c01.PASSWORD")
    assert base64.b64decode(entry["auth"]).decode() == "abc12345:dt0c01.PASSWORD"


DRIVER: dict[str, Any] = {
    "metadata": {"name": "csi.oneagent.dynatrace.com"},
    "spec": {"volumeLifecycleModes": ["Ephemeral"]},
}


@pytest.mark.parametrize(
    ("seen", "installed"),
    [
        (DRIVER, True),
        (None, False),
        ({**DRIVER, "metadata": {"name": "another"}}, False),
        ({**DRIVER, "metadata": {**DRIVER["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}, False),
        ({**DRIVER, "spec": {"volumeLifecycleModes": ["Persistent"]}}, False),
        ({"metadata": DRIVER["metadata"]}, False),
    ],
)
def test_the_driver_is_installed_if_it_takes_inline_volumes_and_stays(seen: Any, installed: bool) -> None:
    assert spec.is_driver_installed(seen) is installed
