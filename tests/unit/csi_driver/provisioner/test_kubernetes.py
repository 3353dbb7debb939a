"""With an API server: DynaKubes come from it, and what happens on the node is told to it."""

from __future__ import annotations

import base64
import time
from pathlib import Path

from oneagent.common import node_lease
from oneagent.common.node_lease import DynaKubeReport
from oneagent.csi_driver.dynakube_sources.api_server import KubernetesSource
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRepository
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.kube_api import KubeApi
from tests.fakes.provisioner import Provisioning, manifest

VERSION = packages.VERSION


def secret(token: str) -> dict[str, object]:
    data = {"apiToken": base64.b64encode(token.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "demo"}, "data": data}


def reported(api: KubeApi) -> tuple[DynaKubeReport, ...]:
    """The reports about DynaKubes in the node's Lease."""
    leases = api.objects("leases")
    return node_lease.read(leases[0])[1].dynakubes if leases else ()


def test_a_dynakube_of_the_api_server_gets_its_version_and_the_nodes_lease_has_it(
    tmp_path: Path, server: double.Tenant
) -> None:
    with KubeApi(token="sa") as api:
        api.put("secrets", secret("wrong"))
        api.put("dynakubes", manifest("demo", server.api_url, version=VERSION, annotations={"poll-interval": "1s"}))
        source = KubernetesSource(
            kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"), node="node1", operator_wait_seconds=0
        )
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: "check apiToken" in str(reported(api)))
            api.put("secrets", secret(server.token))
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            p.wait_until(lambda: reported(api) == (DynaKubeReport("demo", VERSION, "ready"),))
            assert not api.objects("events")
            book = VolumeRepository(database.Database(p.data.database, p.data.database_lock))
            message = "The pod starts without its agent: attempts used up"
            book._notices.append(
                Notice("Warning", "AgentNotMounted", message, "demo", "pod1", "shop", "uid-pod1", time.time())
            )
            book.flush()
            p.wait_until(lambda: len(api.objects("events")) > 1)
            events = {event["reason"]: event for event in api.objects("events")}
            api.delete("dynakubes", "demo")
            p.wait_until(lambda: p.row() is None)
            p.wait_until(lambda: p.collect() == [VERSION] or VERSION not in p.versions())
        source.close()
    pod, counted = events["AgentNotMounted"], events["PodWithoutAgent"]
    assert pod["source"] == {"component": "oneagent-csi", "host": "node1"}
    assert pod["message"] == message
    assert pod["involvedObject"]["uid"] == "uid-pod1"
    assert pod["metadata"]["namespace"] == "shop"
    assert (counted["metadata"]["namespace"], counted["involvedObject"]["kind"]) == ("dynatrace", "DynaKube")
    assert counted["involvedObject"]["name"] == "demo"
    assert counted["related"] == pod["involvedObject"]


def test_an_api_server_that_goes_away_changes_nothing(tmp_path: Path, server: double.Tenant) -> None:
    server.plan("package", double.Fault(bytes_per_second=3_000))
    with KubeApi() as api:
        api.put("secrets", secret(server.token))
        api.put("dynakubes", manifest("demo", server.api_url))
        source = KubernetesSource(
            kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"), node="node1", operator_wait_seconds=0
        )
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: server.count("package") == 1)
            api.__exit__()
            p.wait_until(lambda: p.is_ready(VERSION))
            started = time.monotonic()
            p.provisioner.reconcile()
            assert time.monotonic() - started < 5, "and not a connection's time limit"
            assert p.collect() == []
            assert server.count("package") == 1
        source.close()


def test_a_secret_that_may_not_be_read_yet_delays_a_version_by_seconds_and_sends_no_event(
    tmp_path: Path, server: double.Tenant
) -> None:
    with KubeApi() as api:
        api.forbidden.add("secrets")
        api.put("secrets", secret(server.token))
        api.put("dynakubes", manifest("demo", server.api_url, version=VERSION))
        source = KubernetesSource(
            kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"), node="node1", operator_wait_seconds=0
        )
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: "nodes may not read secrets demo yet" in p.condition(), what=p.condition)
            assert "condition NodeAccess" in p.condition()
            p.wait_until(lambda: sum(request.path.endswith("/secrets/demo") for request in api.requests) >= 4)
            api.forbidden.clear()
            granted = time.monotonic()
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert time.monotonic() - granted < 20, "a refused read is repeated within 15 s"
            states = list[str]()

            def is_ready() -> bool:
                states.extend(kube.state for kube in reported(api))
                return "ready" in states

            p.wait_until(is_ready)
            assert "failed" not in states
        source.close()


def test_a_secret_that_no_role_allows_is_told_of_by_an_event(tmp_path: Path, server: double.Tenant) -> None:
    with KubeApi() as api:
        api.forbidden.add("configmaps")
        api.put("secrets", secret(server.token))
        api.put("dynakubes", manifest("demo", server.api_url, version=VERSION, trustedCAs="authorities"))
        source = KubernetesSource(
            kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"), node="node1", operator_wait_seconds=0
        )
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: "nodes may not read configmaps authorities yet" in str(reported(api)))
        source.close()
