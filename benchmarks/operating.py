"""`python -m benchmarks.operating`: what the operator costs a cluster, and how soon a change has its effect.

Run it in a sandbox, as `make bench-cluster` does: the API server and etcd are real, the operator is a process with
the rights of its service account. Nothing else is there, no controllers and no nodes, so all that is waited for is
the operator's doing. Delays are measured from the API server's answer to a change until another reader sees its
effect; they hold the polling, which takes some milliseconds.

Requests are counted in the API server's audit log. The idle time is as long as the longest period of anything that
the operator does by itself, so that an hour is so many of them.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks import results
from benchmarks.results import Result
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api.versions import NEWEST
from tests.cluster.cluster import Cluster
from tests.e2e import dynakubes, installation, operator_process
from tests.e2e.manifests import NAMESPACE
from tests.fakes import packages
from tests.fakes.tenant import Tenant

_KEPT: Final = Path("build/bench-cluster.json")
_USER: Final = f"system:serviceaccount:{NAMESPACE}:{operator_process.ACCOUNT}"
_TEAMS: Final = [f"team-{number}" for number in range(5)]
_HOSTS: Final = "hosts"
_CHANGES: Final = 100
_PATIENCE_SECONDS: Final = 180.0
_SETTLE_SECONDS: Final = 5.0
_IDLE_SECONDS: Final = 300.0
_MOST_SECONDS: Final = 1.0


class World:
    """The API server with DynaKubes, and what is asked of it as administrator."""

    def __init__(self, cluster: Cluster, tenant: Tenant, operator: operator_process.Operator) -> None:
        self._cluster, self._tenant, self._operator = cluster, tenant, operator
        self._plane = cluster.control_plane
        self._namespaces = 0

    def add_dynakubes(self) -> None:
        """With the driver, as far as the operator looks for it."""
        self._cluster.kubectl.apply(
            *(one for one in installation.manifests("csi-driver.yaml") if one["kind"] in ("CSIDriver", "Role"))
        )
        for team in _TEAMS:
            manifest = dynakubes.dynakube(team, self._tenant.api_url, team, useCSIDriver=True)
            self._cluster.kubectl.apply(manifest, dynakubes.secret(team, self._tenant.token))
        hosts = dynakubes.dynakube(_HOSTS, self._tenant.api_url, "", "hostMonitoring")
        self._cluster.kubectl.apply(hosts, dynakubes.secret(_HOSTS, self._tenant.token))
        _until(lambda: all(self._status(name).get("phase") for name in (*_TEAMS, _HOSTS)), "status")

    def grow(self, number: int) -> float:
        """Seconds from the last of so many namespaces until all have their label."""
        namespaces = (dynakubes.namespace(_namespace(one), _team(one)) for one in range(self._namespaces, number))
        asyncio.run(dynakubes.create(self._plane.admin, namespaces))
        self._namespaces = number
        start = time.monotonic()
        _until(self._all_labelled, f"labels on {number} namespaces", every=0.25)
        return time.monotonic() - start

    def _all_labelled(self) -> bool:
        owners = ",".join(_TEAMS)
        found = self._plane.call("GET", f"/api/v1/namespaces?labelSelector={namespace_mapping.LABEL}+in+({owners})")
        return len(found["items"]) == self._namespaces

    def label(self, number: int) -> float:
        """Move a namespace from one DynaKube to the next."""
        path, owner = f"/api/v1/namespaces/{_namespace(number)}", _team(number + 1)
        self._plane.call("PATCH", path, {"metadata": {"labels": {"team": owner}}})
        return _delay(lambda: self._plane.call("GET", path)["metadata"]["labels"].get(namespace_mapping.LABEL) == owner)

    def status(self, number: int) -> float:
        """Pin another version."""
        name, version = _TEAMS[number % len(_TEAMS)], f"1.{400 + number}.0.20261001-120000"
        self._change(name, "applicationMonitoring", {"version": version})
        return _delay(lambda: self._status(name)["codeModules"]["version"] == version)

    def give_up_csi(self) -> None:
        """From now on what pods need lies in the namespaces, a fifth of all, of the first team."""
        self._change(_TEAMS[0], "applicationMonitoring", {"useCSIDriver": False})
        _until(lambda: "have the injection Secret" in json.dumps(self._status(_TEAMS[0])), "Secrets")

    def secrets(self, number: int) -> float:
        """Pin another version for pods without CSI, until the status tells that every namespace has it."""
        return self.status(1000 * len(_TEAMS) + number * len(_TEAMS))

    def daemon_set(self, number: int) -> float:
        """Give host agents another variable."""
        self._change(_HOSTS, "hostMonitoring", {"env": [{"name": "NUMBER", "value": str(number)}]})
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{_HOSTS}-oneagent"

        def seen() -> bool:
            (container,) = self._plane.call("GET", path)["spec"]["template"]["spec"]["containers"]
            return {"name": "NUMBER", "value": str(number)} in container["env"]

        return _delay(seen)

    def rss_mib(self) -> float:
        """Of the operator, once it has had nothing to do for a while."""
        time.sleep(_SETTLE_SECONDS)
        return self._operator.rss_mib()

    def idle_requests(self) -> collections.Counter[str]:
        """The operator's requests while nobody changes anything, by verb and resource."""
        start = self._plane.audit.stat().st_size
        time.sleep(_IDLE_SECONDS)
        with self._plane.audit.open() as log:
            log.seek(start)
            events = [json.loads(line) for line in log]
        asked = {one["auditID"]: one for one in events if one["user"]["username"] == _USER}
        return collections.Counter(f"{one['verb']} {one['objectRef']['resource']}" for one in asked.values())

    def _change(self, name: str, mode: str, fields: dict[str, Any]) -> None:
        self._plane.call("PATCH", _dynakube(name), {"spec": {"oneAgent": {mode: fields}}})

    def _status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._plane.call("GET", _dynakube(name)).get("status", {})
        return found


def run(cluster: Cluster, folder: Path) -> Iterator[Result]:
    installation.define(cluster.kubectl)
    operator_process.install_rights(cluster.kubectl)
    access = operator_process.kubeconfig(cluster, folder / "kubeconfig")
    operator = operator_process.Operator(access, folder / "operator.log", "--lease-duration=30s")
    with Tenant() as tenant, operator_process.running(operator):
        tenant.release(packages.VERSION, packages.build(folder / "agent.zip", packages.VERSION))
        world = World(cluster, tenant, operator)
        world.add_dynakubes()
        yield results.shown("rss_idle_mib", world.rss_mib(), "MiB")
        yield results.shown("labels_1000_namespaces_s", world.grow(1000), "s")
        for name, change in (("label", world.label), ("status", world.status), ("daemon_set", world.daemon_set)):
            time.sleep(_SETTLE_SECONDS)
            yield from _delays(name, [change(number) for number in range(_CHANGES)])
        yield results.shown("rss_1000_namespaces_mib", world.rss_mib(), "MiB")
        world.give_up_csi()
        slow = [world.secrets(number) for number in range(_CHANGES // 5)]
        yield results.shown("secrets_of_200_namespaces_p50_ms", results.quantile(slow, 50) * 1000, "ms")
        yield results.shown("secrets_of_200_namespaces_worst_ms", max(slow) * 1000, "ms")
        yield results.shown("labels_4000_more_namespaces_s", world.grow(5000), "s")
        yield results.shown("rss_5000_namespaces_mib", world.rss_mib(), "MiB")
        requests = world.idle_requests()
        hours = _IDLE_SECONDS / 3600
        yield results.shown("requests_per_idle_hour_5000_namespaces", requests.total() / hours, "requests")
        for what, number in requests.most_common():
            yield results.shown(f"  of these: {what}", number / hours, "requests")


def main() -> int:
    cluster, measured = Cluster(), list[Result]()
    programs = (cluster.control_plane.etcd, cluster.control_plane.apiserver)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for program in programs:
            program.start()
            stack.callback(program.kill)
            program.wait_ready()
        try:
            for result in run(cluster, folder):
                sys.stderr.write(f"{result.name}: {result.value:g} {result.unit}\n")
                measured.append(result)
        finally:
            results.write(_KEPT, measured)
            results.show(measured)
    return 0


def _delays(name: str, seconds: list[float]) -> Iterator[Result]:
    milliseconds = [one * 1000 for one in seconds]
    yield results.shown(f"{name}_p50_ms", results.quantile(milliseconds, 50), "ms")
    yield results.at_most(f"{name}_p99_ms", results.quantile(milliseconds, 99), "ms", _MOST_SECONDS * 1000)


def _delay(seen: Callable[[], bool]) -> float:
    start = time.monotonic()
    _until(seen, "the effect of a change", every=0.002)
    return time.monotonic() - start


def _until(condition: Callable[[], bool], what: str, every: float = 0.05) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in vain for {_PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(every)


def _dynakube(name: str) -> str:
    return f"/apis/dynatrace.com/{NEWEST}/namespaces/{NAMESPACE}/dynakubes/{name}"


def _namespace(number: int) -> str:
    return f"crowd-{number:04}"


def _team(number: int) -> str:
    return _TEAMS[number % len(_TEAMS)]


if __name__ == "__main__":
    raise SystemExit(main())
