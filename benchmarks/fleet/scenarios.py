"""The changes that a fleet lives through, and the time until its nodes have them."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks import results
from benchmarks.fleet import measures, node
from benchmarks.results import Result
from oneagent.common.dynakube.api.versions import NEWEST
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl
from tests.e2e import dynakubes
from tests.e2e.manifests import NAMESPACE
from tests.fakes.tenant import Tenant

DYNAKUBE: Final = "fleet"
NODES: Final = "oneagent-csi-driver"
OPERATOR: Final = "oneagent-operator"
_CRD: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/dynakubes.dynatrace.com"
_PATH: Final = f"/apis/dynatrace.com/{NEWEST}/namespaces/{NAMESPACE}/dynakubes/{DYNAKUBE}"
_ALL: Final = 99
"""Percent of the nodes that end a scenario."""
_START_SECONDS: Final = 75.0
"""After the last node has started: each writes its first report within the jitter."""
_SETTLE_SECONDS: Final = 130.0
"""After the last change: downloads, and the nodes' reports of them, are spread over two minutes."""
_POLL_MINUTES: Final = 1
"""The shortest interval that a DynaKube may set, so that a run sees a poll."""


class Nodes:
    """The processes with nodes, and what their nodes have, by kind, DynaKube and value."""

    def __init__(self, number: int, processes: int, kubeconfig: Path, log: Path) -> None:
        self.number = number
        self._have = collections.defaultdict[tuple[str, str, str], dict[str, float]](dict)
        self._processes = list[subprocess.Popen[str]]()
        first = 0
        for index in range(processes):
            share = (number - first) // (processes - index)
            self._start([str(kubeconfig), str(first), str(share)], log)
            first += share

    def wait_started(self) -> None:
        """Wait until each node has listed DynaKubes, which takes 5,000 nodes on two cores some minutes."""
        while len(self._have["listed", "", ""]) < self.number:
            time.sleep(0.5)

    def times(self, kind: str, value: str) -> list[float]:
        """When nodes first had it, on the monotonic clock."""
        return list(self._have[kind, DYNAKUBE, value].values())

    def stop(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, arguments: list[str], log: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.fleet.process", *arguments]
        with log.open("ab") as errors:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        self._processes.append(process)
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            at, name, kind, kube, value = json.loads(line)
            self._have[kind, kube, value].setdefault(name, at)


class Scenarios:
    """Each scenario makes one change and yields its figures."""

    def __init__(self, plane: ControlPlane, kubectl: Kubectl, tenant: Tenant, nodes: Nodes) -> None:
        self._plane, self._kubectl, self._tenant, self._nodes = plane, kubectl, tenant, nodes
        self._log = measures.AuditLog(plane.audit)

    def start(self) -> Iterator[Result]:
        self._nodes.wait_started()
        time.sleep(_START_SECONDS)
        yield from self._requests("start")

    def new_dynakube(self) -> Iterator[Result]:
        manifest = dynakubes.dynakube(DYNAKUBE, self._tenant.api_url, "fleet", useCSIDriver=True)
        manifest["spec"]["dynatraceApiRequestThreshold"] = _POLL_MINUTES
        version = self._tenant.versions()[-1]

        def change() -> None:
            self._kubectl.apply(dynakubes.secret(DYNAKUBE, self._tenant.token), manifest)

        yield from self._measure("new_dynakube", change, "complete", f"{version} {self._tenant.tenant_token}", 150)

    def new_version(self, version: str) -> Iterator[Result]:
        yield from self._measure("new_version", lambda: self._pin(version), "has", version, 100)

    def failing_version(self) -> Iterator[Result]:
        """Count the writes while a version fails on all nodes: nodes have seen it after the jitter."""
        version = f"{node.FAILING}1.20261001-120000"
        yield from self._measure("failing_version", lambda: self._pin(version), "has", version, 150)

    def token(self) -> Iterator[Result]:
        def change() -> None:
            self._tenant.tenant_token = "changed-tenant-token"

        yield from self._measure("changed_token", change, "token", "changed-tenant-token", 150)

    def crd_change(self, version: str) -> Iterator[Result]:
        def change() -> None:
            definition = self._plane.call("GET", _CRD)
            for served in definition["spec"]["versions"]:
                column = {"name": "Fleet", "type": "string", "jsonPath": ".metadata.name"}
                served.setdefault("additionalPrinterColumns", []).append(column)
            self._plane.call("PATCH", _CRD, {"spec": {"versions": definition["spec"]["versions"]}})
            self._pin(version)

        yield from self._measure("crd_change", change, "seen", version, 120)

    def restart(self, version: str) -> Iterator[Result]:
        def change() -> None:
            self._plane.apiserver.kill()
            self._plane.apiserver.start()
            self._plane.apiserver.wait_ready()
            self._pin(version)

        yield from self._measure("api_server_restart", change, "seen", version, 90)

    def idle(self, seconds: float) -> Iterator[Result]:
        time.sleep(_SETTLE_SECONDS)
        self._log.take()
        tenant, sent = len(self._tenant.requests), measures.sent_bytes(self._plane)
        time.sleep(seconds)
        requests = self._log.take().get(NODES, measures.Requests())
        hours = seconds / 3600
        number = self._nodes.number
        yield results.shown("idle_requests_per_node_hour", requests.total / number / hours, "requests")
        for kind, count in requests.kinds.most_common():
            yield results.shown(f"  of these: {kind}", count / number / hours, "requests")
        yield results.shown("idle_requests_per_second", requests.total / seconds, "requests")
        for resource, limits in sorted(requests.watch_seconds.items()):
            yield results.shown(f"  watch of {resource} ends after", sum(limits) / len(limits), "s")
        yield results.shown("idle_kib_per_second", (measures.sent_bytes(self._plane) - sent) / seconds / 1024, "KiB")
        yield results.shown("idle_tenant_requests", (len(self._tenant.requests) - tenant) / seconds * 60, "a minute")

    def _pin(self, version: str) -> None:
        spec = {"oneAgent": {"applicationMonitoring": {"version": version}}}
        self._plane.call("PATCH", _PATH, {"spec": spec})

    def _measure(
        self, name: str, change: Callable[[], None], kind: str, value: str, longest: float
    ) -> Iterator[Result]:
        self._log.take()
        tenant, sent = len(self._tenant.requests), measures.sent_bytes(self._plane)
        start, number = time.monotonic(), self._nodes.number
        change()
        while len(self._nodes.times(kind, value)) < number * _ALL / 100 and time.monotonic() < start + longest:
            time.sleep(0.5)
        done = self._nodes.times(kind, value)
        yield results.shown(f"{name}_reached", len(done) / number * 100, "% of nodes")
        for percent in (50, _ALL):
            if len(done) >= number * percent / 100:
                after = results.quantile(done + [float("inf")] * (number - len(done)), percent) - start
                yield results.shown(f"{name}_p{percent}_s", after, "s")
        time.sleep(5)
        yield from self._requests(name)
        now = measures.sent_bytes(self._plane)
        yield results.shown(f"{name}_mib_sent", (now - sent if now > sent else now) / (1 << 20), "MiB")
        yield results.shown(f"{name}_tenant_requests", len(self._tenant.requests) - tenant, "requests")
        refused = [one for one in self._tenant.refused if one > start]
        yield results.shown(f"{name}_tenant_429", len(refused), "requests")

    def _requests(self, name: str) -> Iterator[Result]:
        for account, requests in sorted(self._log.take().items()):
            who = account.removeprefix("oneagent-")
            yield results.shown(f"{name}_{who}_requests", requests.total, "requests")
            yield results.shown(f"{name}_{who}_peak", requests.peak, "a second")
            yield results.shown(f"{name}_{who}_peak_minute", requests.peak_of_minute(), "a minute")
            for kind, count in requests.kinds.most_common(6):
                yield results.shown(f"  of these: {kind}", count, "requests")
