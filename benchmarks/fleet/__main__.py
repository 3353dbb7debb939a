"""`python -m benchmarks.fleet`: see the package."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks import results
from benchmarks.fleet import scenarios
from benchmarks.results import Result
from tests.cluster.cluster import Cluster
from tests.e2e import installation, operator_process
from tests.fakes import packages
from tests.fakes.tenant import Tenant

_KEPT: Final = Path("build/bench-fleet.json")
_PROGRAMS: Final = ("DaemonSet", "Deployment")
_TENANT_LIMIT: Final = 50
"""Requests a minute that a tenant allows for a whole cluster."""
_NODES_A_PROCESS: Final = 250
_VERSIONS: Final = [f"1.{300 + number}.0.20261001-120000" for number in range(3)]


def run(cluster: Cluster, folder: Path, given: argparse.Namespace) -> Iterator[Result]:
    installation.define(cluster.kubectl)
    operator_process.install_rights(cluster.kubectl)
    driver = installation.manifests("csi-driver.yaml")
    cluster.kubectl.apply(*(one for one in driver if one["kind"] not in _PROGRAMS))
    access = operator_process.kubeconfig(cluster, folder / "operator.kubeconfig")
    nodes_access = operator_process.kubeconfig(cluster, folder / "nodes.kubeconfig", scenarios.NODES)
    operator = operator_process.Operator(access, folder / "operator.log", "--lease-duration=60s")
    with contextlib.ExitStack() as stack:
        tenant = stack.enter_context(Tenant(requests_per_minute=_TENANT_LIMIT))
        tenant.release(packages.VERSION, packages.build(folder / "agent.zip", packages.VERSION))
        stack.enter_context(operator_process.running(operator))
        processes = given.processes or math.ceil(given.nodes / _NODES_A_PROCESS)
        nodes = scenarios.Nodes(given.nodes, processes, nodes_access, Path("build/bench-fleet.log"))
        stack.callback(nodes.stop)
        fleet = scenarios.Scenarios(cluster.control_plane, cluster.kubectl, tenant, nodes)
        changes: dict[str, Callable[[], Iterator[Result]]] = {
            "new_version": lambda: fleet.new_version(_VERSIONS[0]),
            "token": fleet.token,
            "crd_change": lambda: fleet.crd_change(_VERSIONS[1]),
            "restart": lambda: fleet.restart(_VERSIONS[2]),
            "idle": lambda: fleet.idle(given.idle),
            "failing_version": fleet.failing_version,
        }
        yield from fleet.start()
        yield from fleet.new_dynakube()
        for name, change in changes.items():
            if name not in given.without:
                yield from change()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description="Measure a large cluster.")
    parser.add_argument("--nodes", type=int, default=1000, help="nodes (default 1000)")
    parser.add_argument("--processes", type=int, help=f"processes that share them (default one for {_NODES_A_PROCESS})")
    parser.add_argument("--idle", type=float, default=180.0, help="seconds without a change (default 180)")
    parser.add_argument("--without", nargs="*", default=(), help="changes to leave out, as crd_change")
    given = parser.parse_args()
    cluster, measured = Cluster(), list[Result]()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for program in (cluster.control_plane.etcd, cluster.control_plane.apiserver):
            program.start()
            stack.callback(program.kill)
            program.wait_ready()
        try:
            for result in run(cluster, folder, given):
                sys.stderr.write(f"{result.name}: {result.value:g} {result.unit}\n")
                measured.append(result)
        finally:
            results.write(_KEPT, measured)
            results.show(measured)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
