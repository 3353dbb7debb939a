"""Pods whose version does not come: held up or started by their failure policy, and by themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.agents import oneagent
from oneagent.common.injection import contract
from tests.cluster.kubectl import Kubectl
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook.applications import Applications, Pod
from tests.fakes import packages
from tests.fakes.tenant import Tenant

LATE = "1.290.8.20261008-000000"


@pytest.fixture
def late(
    dynakube: str, kubectl: Kubectl, applications: Applications, dynatrace: Tenant, wait_for: WaitFor
) -> Iterator[str]:
    """The namespace's DynaKube, whose version the tenant does not have yet; pods do not wait for long."""
    kube, secret = manifests.dynakube("late", dynatrace.api_url, LATE, max_csi_mount_timeout="5s")
    kube["spec"]["oneAgent"]["applicationMonitoring"]["namespaceSelector"] = {"matchLabels": {"team": "late"}}
    kubectl.apply(secret, kube)
    kubectl("label", "--overwrite", "namespace", applications.namespace, "team=late")
    pod = manifests.application("asked", applications.namespace)

    def is_known() -> bool:
        stored = json.loads(kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(pod)))
        return any('"late"' in json.dumps(volume) for volume in stored["spec"].get("volumes", ()))

    wait_for(is_known, "the webhook injects for the DynaKube")
    yield "late"
    kubectl.delete(kube, secret)


def volume(pod: Pod) -> dict[str, Any]:
    (found,) = (one for one in pod["spec"]["volumes"] if one["name"] == contract.BIN_VOLUME)
    attributes: dict[str, Any] = found["csi"]["volumeAttributes"]
    return attributes


def test_one_waits_for_it_and_starts_by_itself_the_other_starts_at_once_and_prints_nothing(
    late: str, applications: Applications, dynatrace: Tenant, wait_for: WaitFor, tmp_path: Path
) -> None:
    held = manifests.application("held", applications.namespace)
    held["metadata"]["annotations"] = {"oneagent.dynatrace.com/failure-policy": "fail"}
    applications.create(held)
    silent = applications.started(manifests.application("silent", applications.namespace), within=120)
    assert volume(silent)["dynakube"] == late
    assert not applications.monitored(silent)
    assert applications.kubectl("logs", "silent").strip() == ""
    assert "containerName shop" in applications.read(silent, oneagent.CONTAINER_CONF_PATH)
    assert wait_for(lambda: applications.events("AgentNotMounted"), "an Event says it", 60)
    reason = wait_for(lambda: applications.events("FailedMount"), "an Event says why the other waits", 120)
    assert LATE in reason
    (waiting,) = applications.pods("metadata.name=held")
    assert waiting["status"]["phase"] == "Pending"

    dynatrace.release(LATE, packages.build(tmp_path / "agent.zip", LATE, library=packages.loadable()))
    found = applications.running("metadata.name=held", within=240)
    assert found["metadata"]["uid"] == waiting["metadata"]["uid"]
    assert applications.monitored(found)
