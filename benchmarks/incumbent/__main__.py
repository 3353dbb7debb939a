"""`python -m benchmarks.incumbent`: measure both drivers, and print the rows of docs/measurements.md."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import bursts, publishing, results
from benchmarks.incumbent import drivers, measures
from benchmarks.incumbent.drivers import Driver
from benchmarks.results import Result
from oneagent.common.identifiers import Version
from tests.cluster.cluster import Cluster
from tests.e2e import installation
from tests.fakes import packages
from tests.fakes.tenant import Tenant

_KEPT: Final = Path("build/bench-incumbent.json")
_WARM_UP: Final = 50
_LIMIT: Final = {"GRPC_MAX_REQUESTS_LIMIT": "200"}
"""More concurrent calls than pods. The default is 20."""


@dataclass(frozen=True)
class Row:
    """A row of the table; its values belong to `unit`, one or two for each driver."""

    name: str
    unit: str
    values: Mapping[str, Sequence[float]]

    def results(self) -> list[Result]:
        return [
            Result(f"{self.name} [{number}]: {driver}", round(value, 3), self.unit)
            for driver, values in self.values.items()
            for number, value in enumerate(values)
        ]

    def markdown(self) -> str:
        cells = (
            f"{', '.join(f'{value:.3g}' for value in values)} {self.unit}".strip() for values in self.values.values()
        )
        return f"| {' | '.join((self.name, *cells))} |"


def run(cluster: Cluster, place: Path, turns: int, rounds: int, keep: Callable[[Row], None]) -> None:
    plane = cluster.control_plane
    drivers.make_mounts_private()
    installation.define(cluster.kubectl)
    with contextlib.ExitStack() as stack:
        tenant = stack.enter_context(Tenant())
        tenant.release(packages.VERSION, _package(place / "agent.zip"))
        drivers.create_objects(plane, tenant, Version(packages.VERSION))
        ours = stack.enter_context(drivers.here(place / "here", plane.admin))
        incumbent = stack.enter_context(drivers.incumbent(place / "there", plane.admin))
        both = [ours, incumbent.start()]
        for driver in both:
            driver.wait_installed()
        _memory("after an install", both, keep)
        _calls(turns, both, keep)
        _bursts(f"{bursts.PODS} publishes at once, until the last pod has its volume", "burst", rounds, both, keep)
        _memory("after the bursts", both, keep)
        both = [ours, incumbent.start_server(_LIMIT)]
        _bursts("the same, with the limit of concurrent calls raised", "unlimited", rounds, both, keep)


def _package(path: Path) -> Path:
    """A package of 200 MB unpacked, with the configuration that the Dynatrace Operator merges into."""
    packages.build_large(path, megabytes=200)
    with zipfile.ZipFile(path, "a") as archive:
        packages.write(archive, "agent/conf/ruxitagentproc.conf", b"[general]\nlibjava on\n", 0o100664)
    return path


def _calls(turns: int, both: list[Driver], keep: Callable[[Row], None]) -> None:
    keep(Row("mounts of a pod", "", {driver.name: [measures.mounts(driver)] for driver in both}))
    measures.calls("warm", _WARM_UP, both)
    found = measures.calls("turn", turns, both)
    keep(_percentiles("publish, p50, p99", {name: calls.publish for name, calls in found.items()}))
    keep(_percentiles("unpublish, p50, p99", {name: calls.unpublish for name, calls in found.items()}))
    processor = {name: [calls.processor_seconds / turns * 1e3] for name, calls in found.items()}
    keep(Row("processor time of a publish and its unpublish", "ms", processor))
    live = [f"live{number}" for number in range(bursts.PODS)]
    for driver in both:
        for pod in live:
            driver.kubelet.publish(pod)
    found = measures.calls("full", turns, both)
    for driver in both:
        publishing.drain(driver.kubelet, live)
    name = f"publish with {bursts.PODS} live pods, p50, p99"
    keep(_percentiles(name, {name: calls.publish for name, calls in found.items()}))


def _bursts(name: str, prefix: str, rounds: int, both: list[Driver], keep: Callable[[Row], None]) -> None:
    found = measures.measure_bursts(prefix, rounds, both)
    keep(Row(name, "s", {one: [results.quantile(burst.seconds, 50)] for one, burst in found.items()}))
    refused = {one: [results.quantile(burst.refused, 50)] for one, burst in found.items()}
    keep(Row("calls refused meanwhile", "", refused))


def _memory(when: str, both: list[Driver], keep: Callable[[Row], None]) -> None:
    held = measures.memory(both)
    keep(Row(f"memory of server and provisioner {when}; private dirty pages in it", "MiB", held))


def _percentiles(name: str, seconds: Mapping[str, Sequence[float]]) -> Row:
    quantiles = {
        driver: [results.quantile(samples, percent) * 1e3 for percent in (50, 99)]
        for driver, samples in seconds.items()
    }
    return Row(name, "ms", quantiles)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.incumbent", description="Measure both drivers.")
    parser.add_argument("--turns", type=int, default=1000, help="publishes of each, one at a time (default 1000)")
    parser.add_argument("--rounds", type=int, default=15, help="bursts of each (default 15)")
    given = parser.parse_args()
    if not drivers.PROGRAM.exists():
        parser.error(f"{drivers.PROGRAM} is not built: make incumbent")
    cluster, rows = Cluster(), list[Row]()

    def keep(row: Row) -> None:
        sys.stderr.write(f"{row.markdown()}\n")
        rows.append(row)

    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for program in (cluster.control_plane.etcd, cluster.control_plane.apiserver):
            program.start()
            stack.callback(program.kill)
            program.wait_ready()
        try:
            run(cluster, place, given.turns, given.rounds, keep)
        finally:
            results.write(_KEPT, [result for row in rows for result in row.results()])
    names: Any = list(rows[0].values)
    sys.stdout.write(f"| {' | '.join(('what', *names))} |\n{'| --- ' * (1 + len(names))}|\n")
    sys.stdout.writelines(f"{row.markdown()}\n" for row in rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
