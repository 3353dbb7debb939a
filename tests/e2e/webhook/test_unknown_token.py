"""A tenant that refuses everything but the package: a pod starts without an agent, and people see why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.proto.csi.v1 import csi_pb2, csi_pb2_grpc
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import Running, WaitFor
from tests.e2e.installation import Installed
from tests.e2e.webhook.applications import Applications, untouched
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.fakes import packages
from tests.fakes.tenant import Fault, Tenant

NAME: Final = "refused"
VERSION: Final = "1.288.0.20261001-120000"
TENANT: Final = "rfs98765"
SAID: Final = ("agents cannot be configured yet", "answered 429")


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    with Tenant(host=Node.address) as tenant:
        tenant.tenant = TENANT
        tenant.release(VERSION, packages.build(tmp_path / "agent.zip", VERSION, library=packages.loadable()))
        for endpoint in ("latest", "connection", "config", "scopes"):
            tenant.plan(endpoint, *[Fault(status=429)] * 1000)
        yield tenant


@pytest.fixture
def refused(
    tenant: Tenant, driver: Installed, applications: Applications, kubectl: Kubectl, wait_for: WaitFor
) -> Iterator[str]:
    """The namespace's DynaKube, whose package is on the node."""
    kube, secret = manifests.dynakube(NAME, tenant.api_url, VERSION, max_csi_mount_attempts="2")
    kube["spec"]["oneAgent"]["applicationMonitoring"]["namespaceSelector"] = {"matchLabels": {"team": NAME}}
    kubectl.apply(secret, kube)
    kubectl("label", "--overwrite", "namespace", applications.namespace, f"team={NAME}")
    owner = f"jsonpath={{.metadata.labels.{namespace_mapping.LABEL.replace('.', chr(92) + '.')}}}"
    get = ("get", "namespace", applications.namespace, "-o", owner)
    wait_for(lambda: kubectl(*get) == NAME, "the namespace belongs to the DynaKube")
    wait_for(lambda: VERSION in driver.versions(), "the package is in the store")
    yield NAME
    kubectl.delete(kube, secret)


def volume_condition(driver: Installed, pod: str) -> csi_pb2.VolumeCondition:
    """Of the pod's volume, as kubelet asks for it."""
    (row,) = (row for row in driver.rows() if row["pod_name"] == pod)
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=row["id"], volume_path=row["target"])
    with grpc.insecure_channel(f"unix:{installation.PLUGIN / 'csi.sock'}") as channel:
        stats: csi_pb2.NodeGetVolumeStatsResponse = csi_pb2_grpc.NodeStub(channel).NodeGetVolumeStats(
            request, timeout=10
        )
        return stats.volume_condition


def test_no_pod_has_a_configuration_without_the_token_and_what_people_see_names_the_tenants_answer(
    refused: str,
    driver: Installed,
    applications: Applications,
    namespace: str,
    kubectl: Kubectl,
    running: Running,
    plugin: Plugin,
    wait_for: WaitFor,
) -> None:
    """One pod comes to the webhook now; another one has the volume already, as one that was injected before."""
    now = applications.started(manifests.application("now", applications.namespace))
    assert untouched(now)
    # The namespace is one that the webhook leaves alone.
    kubectl.apply(manifests.pod("before", namespace, refused))

    def event(where: str, reason: str) -> str:
        return kubectl(
            "-n", where, "get", "events", "--field-selector", f"reason={reason}", "-o", "jsonpath={..message}"
        )

    def is_said(text: str) -> bool:
        return all(part in text for part in SAID)

    wait_for(lambda: is_said(event(namespace, "FailedMount")), "kubelet says why the pod waits", 60)
    running(namespace, "before", within=120)
    layers = driver.data.config_layers
    assert [*layers.glob(f"{TENANT}/*"), *layers.glob(f"{refused}/*")] == []
    files = kubectl("-n", namespace, "exec", "before", "--", "ls", f"{manifests.AGENT}/agent/conf")
    assert "ruxitagentproc.conf" not in files
    wait_for(lambda: is_said(event(namespace, "AgentNotMounted")), "the driver says it of the pod", 60)
    condition = volume_condition(driver, "before")
    assert condition.abnormal and is_said(condition.message), condition.message
    wait_for(lambda: is_said(event(applications.namespace, "DynaKubeNotReady")), "the webhook says it of the other pod")
    for pod in (f"{applications.namespace}/now", f"{namespace}/before"):
        why = plugin.why(pod)
        assert is_said(json.dumps(why["verdict"])), why["verdict"]
    problems = json.dumps(plugin.json("status")["problems"])
    assert f"DynaKube {refused}: TenantConfiguration: {SAID[0]}" in problems and SAID[1] in problems, problems
