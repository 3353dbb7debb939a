"""Requests of a node to the API server while nothing changes; those of its watch are in `test_watch_periods`."""

from __future__ import annotations

import base64
import collections
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common import node_lease
from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.node_lease import DynaKubeReport
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import tenant_secret
from oneagent.common.tenant.image_resolver import MemorySignatures
from oneagent.csi_driver.dynakube_sources import Snapshot
from oneagent.csi_driver.dynakube_sources.api_server import KubernetesSource
from oneagent.csi_driver.provisioner.node_reporter import NodeReporter
from oneagent.csi_driver.provisioner.tenant_poller import TenantPoller
from tests.fakes import kube_api, packages, tenant_answers
from tests.fakes import tenant as double
from tests.fakes.kube_api import KubeApi
from tests.fakes.provisioner import eventually, manifest

HOURS = 5


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with kube_api.KubeApi() as found:
        yield found


def put_dynakube(api: KubeApi, name: str, server: double.Tenant) -> None:
    """A DynaKube with the tenant's answers, as the operator hands them out."""
    kube = manifest(name, server.api_url, decided=packages.VERSION)
    state = tenant_answers.answers(kube, server)
    data = {key: base64.b64encode(text.encode()).decode() for key, text in tenant_answers.secret_data(state).items()}
    api.put("secrets", {"metadata": {"name": tenant_secret.name(DynaKubeName(name))}, "data": data})
    api.put("dynakubes", tenant_answers.marked(kube, state))


@pytest.mark.parametrize("number", [1, 20])
def test_a_node_writes_its_report_once_an_hour_and_reads_nothing_however_many_dynakubes_there_are(
    api: KubeApi, tmp_path: Path, number: int
) -> None:
    snapshots, stop, now = list[Snapshot](), threading.Event(), [0.0]
    source = KubernetesSource(kubeconfig=api.kubeconfig(tmp_path / "config"), namespace="dynatrace", node="node-1")
    wait = source.operator_wait_seconds
    poller = TenantPoller(source, Registries(), MemorySignatures(), lambda: None, operator_wait_seconds=wait)
    reporter = NodeReporter(source, 60.0, lambda: now[0])

    def look(kubes: list[DynaKube]) -> None:
        for kube in kubes:
            poller.poll_if_due(kube)
        reporter.update(DynaKubeReport(kube.name, packages.VERSION, "ready") for kube in kubes)

    with double.Tenant() as server:
        for one in range(number):
            put_dynakube(api, f"team-{one}", server)
        watching = threading.Thread(target=source.run, args=(snapshots.append, stop), daemon=True)
        watching.start()
        try:
            eventually(lambda: snapshots and len(snapshots[-1].dynakubes) == number)
            kubes = list(snapshots[-1].dynakubes.values())

            def settled() -> bool:
                look(kubes)
                now[0] += 1.0
                time.sleep(0.01)
                states = [poller.state(kube.name) for kube in kubes]
                return all(state and state.complete for state in states) and bool(api.objects("leases"))

            eventually(settled)
            api.requests.clear()
            for _ in range(HOURS * 360):
                now[0] += 10.0
                look(kubes)
                time.sleep(0.001)
            requests = collections.Counter(f"{one.method} {one.path.split('/')[-2]}" for one in api.requests)
            assert requests.keys() == {"PATCH leases"}
            assert requests.total() <= HOURS * 3600 / node_lease.REFRESH_SECONDS * 1.25 + 1
            assert server.requests == []
        finally:
            poller.stop()
            stop.set()
            watching.join(5)
            source.close()
