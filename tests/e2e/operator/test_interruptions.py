"""API server, connections and the operator itself break off: all ends as it would have otherwise."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply, WaitFor
from tests.fakes.relay import Relay
from tests.fakes.tenant import Tenant

API_PORT: Final = 6443


@pytest.fixture
def way(cluster: Cluster) -> Iterator[Relay]:
    """The operator's way to the API server."""
    with Relay(Node.address, API_PORT) as way:
        yield way


@pytest.fixture
def distant_operator(rights: Path, tmp_path: Path, way: Relay) -> Iterator[operator_process.Operator]:
    kubeconfig = operator_process.through(rights, way.port, tmp_path / "kubeconfig")
    with operator_process.running(
        operator_process.Operator(kubeconfig, tmp_path / "operator.log", operator_process.PATIENT)
    ) as operator:
        yield operator
        way.open()
        print(operator.log.read_text()[-8000:])


def test_the_api_server_restarts(
    own_operator: operator_process.Operator,
    cluster: Cluster,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
) -> None:
    apply(dynakubes.namespace("again-1", "again"))
    apply(dynakubes.dynakube("again", tenant.api_url, "again"), dynakubes.secret("again", tenant.token))
    dynakube_reader.wait_owners("again-", {"again-1": "again"})
    restart_api_server(cluster)
    apply(dynakubes.namespace("again-2", "again"))
    dynakube_reader.wait_owners("again-", {"again-1": "again", "again-2": "again"}, within=60)


def test_connections_break_off_while_things_change(
    distant_operator: operator_process.Operator,
    way: Relay,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
    wait_for: WaitFor,
) -> None:
    apply(dynakubes.namespace("cut-1", "cut"))
    apply(dynakubes.dynakube("cut", tenant.api_url, "cut"), dynakubes.secret("cut", tenant.token))
    dynakube_reader.wait_owners("cut-", {"cut-1": "cut"})
    for team, owner in (("none", ""), ("cut", "cut"), ("none", "")):
        way.cut()
        dynakube_reader.label("cut-1", team)
        dynakube_reader.wait_owners("cut-", {"cut-1": owner})
    way.close()
    before = way.refused
    dynakube_reader.label("cut-1", "cut")
    wait_for(lambda: way.refused > before + 2, "it tries again")
    assert dynakube_reader.owners("cut-") == {"cut-1": ""}
    way.open()
    dynakube_reader.wait_owners("cut-", {"cut-1": "cut"})


def test_what_happened_meanwhile_is_forgotten_by_the_api_server(
    distant_operator: operator_process.Operator,
    way: Relay,
    cluster: Cluster,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
    kubectl: Kubectl,
) -> None:
    apply(dynakubes.namespace("gone-by-1", "gone-by"), dynakubes.namespace("gone-by-2", "none"))
    apply(dynakubes.dynakube("gone-by", tenant.api_url, "gone-by"), dynakubes.secret("gone-by", tenant.token))
    dynakube_reader.wait_owners("gone-by-", {"gone-by-1": "gone-by", "gone-by-2": ""})
    seen = cluster.control_plane.call("GET", "/api/v1/namespaces")["metadata"]["resourceVersion"]
    way.close()
    dynakube_reader.label("gone-by-1", "none")
    dynakube_reader.label("gone-by-2", "gone-by")
    restart_api_server(cluster)
    watch = f"/api/v1/namespaces?watch=true&resourceVersion={seen}&timeoutSeconds=2"
    assert '"code":410' in kubectl("get", "--raw", watch)
    way.open()
    dynakube_reader.wait_owners("gone-by-", {"gone-by-1": "", "gone-by-2": "gone-by"}, within=60)


def restart_api_server(cluster: Cluster) -> None:
    """What it remembers of changes, for watches that are taken up again, begins anew."""
    server = cluster.control_plane.apiserver
    server.kill()
    server.start()
    server.wait_ready()


def test_killed_at_random_during_a_hundred_changes_it_ends_where_it_would_have(
    own_operator: operator_process.Operator,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
    wait_for: WaitFor,
) -> None:
    chance = random.Random(7)
    names = [f"chaos-{number}" for number in range(10)]
    teams = dict.fromkeys(names, "none")
    apply(*(dynakubes.namespace(name, "none") for name in names))
    apply(dynakubes.dynakube("red", tenant.api_url, "red", useCSIDriver=False), dynakubes.secret("red", tenant.token))
    apply(
        dynakubes.dynakube("blue", tenant.api_url, "blue", useCSIDriver=False), dynakubes.secret("blue", tenant.token)
    )
    kills = chance.sample(range(100), 5)
    for change in range(100):
        wait_for(own_operator.leads, "it works")
        name = chance.choice(names)
        teams[name] = chance.choice(["red", "blue", "none"])
        dynakube_reader.label(name, teams[name])
        # It is anywhere between noticing a change and having done all about it.
        time.sleep(chance.uniform(0, 0.1))
        if change in kills:
            own_operator.kill()
            own_operator.start()
    wanted = {name: team if team != "none" else "" for name, team in teams.items()}
    dynakube_reader.wait_owners("chaos-", wanted, within=60)
    dynakube_reader.wait_condition("red", "Ready", "True")
    dynakube_reader.wait_condition("blue", "Ready", "True")
    # Both may still be ready from before the last changes.
    owned = {name for name, owner in wanted.items() if owner}
    wait_for(lambda: dynakube_reader.with_secret("chaos-") == owned, f"only {sorted(owned)} have Secrets")
