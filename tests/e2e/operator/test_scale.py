"""A thousand namespaces, of which each belongs to one of five DynaKubes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tests.cluster.cluster import Cluster
from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply, WaitFor
from tests.fakes.tenant import Tenant


def test_a_thousand_namespaces_and_five_dynakubes(
    own_operator: operator_process.Operator,
    cluster: Cluster,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
    wait_for: WaitFor,
    record_property: Callable[[str, object], None],
) -> None:
    namespaces = [dynakubes.namespace(f"scale-{number:04}", f"s{number % 5}") for number in range(1000)]
    # They stay: a thousand namespaces that go take the controllers minutes, in which other tests would have to wait.
    asyncio.run(dynakubes.create(cluster.control_plane.admin, namespaces))
    start = time.monotonic()
    for number in range(5):
        apply(
            dynakubes.dynakube(f"s{number}", tenant.api_url, f"s{number}"), dynakubes.secret(f"s{number}", tenant.token)
        )
    wait_for(
        lambda: all(dynakube_reader.owners("scale-").values()), "all namespaces are labelled", within=120, every=0.5
    )
    record_property("1,000 namespaces labelled by five new DynaKubes, s", round(time.monotonic() - start, 1))
    for number in range(5):
        dynakube_reader.wait_condition(f"s{number}", "Ready", "True", within=60)
    moves = [(f"scale-{number:04}", f"s{(number + 1) % 5}") for number in range(100)]
    delays = sorted(dynakube_reader.delay(name, team, team) for name, team in moves)
    found = f"p50 {delays[50] * 1000:.0f}, p99 {delays[98] * 1000:.0f}, worst {delays[99] * 1000:.0f}"
    record_property("from a namespace's change to its label, ms of 100", found)
    record_property("operator's memory with 1,000 namespaces, MiB", round(own_operator.rss_mib()))
    assert delays[98] <= 1
