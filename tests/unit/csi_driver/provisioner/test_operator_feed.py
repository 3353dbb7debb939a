"""A node has a tenant's answers from the operator, and asks the tenant only where no operator does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube.tenant_config import TenantConfig
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.tenant import tenant_secret
from oneagent.csi_driver.provisioner.operator_feed import Feed, OperatorFeed
from oneagent.csi_driver.store import demand
from tests.fakes import packages, tenant_answers
from tests.fakes import tenant as double
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, manifest

VERSION = packages.VERSION
SECRET = tenant_secret.name(DynaKubeName("demo"))
URL = "https://abc12345.example/api"


class Reads(FakeDynaKubeSource):
    """Counts the reads of the Secret with the answers."""

    operator_wait_seconds: float | None = 3600.0

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def secret(self, name: str) -> Any:
        self.reads += name == SECRET
        return super().secret(name)


@pytest.fixture
def cluster() -> Reads:
    return Reads()


@pytest.fixture
def server(package: Path) -> Iterator[double.Tenant]:
    """A tenant that answers 429 to everything but the package."""
    with double.Tenant() as server:
        server.release(VERSION, package)
        for endpoint in ("latest", "connection", "config", "scopes"):
            server.plan(endpoint, *[double.Fault(status=429)] * 1000)
        yield server


@pytest.fixture
def kube(server: double.Tenant) -> dict[str, Any]:
    """A DynaKube whose version is decided."""
    return manifest("demo", server.api_url, decided=VERSION)


def questions(server: double.Tenant) -> list[str]:
    return [request.endpoint for request in server.requests if request.endpoint != "package"]


class TestANode:
    def test_has_everything_for_agents_from_the_operator_and_asks_the_tenant_for_the_package_alone(
        self, tmp_path: Path, server: double.Tenant, cluster: Reads, kube: dict[str, Any]
    ) -> None:
        tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert f"tenantToken {server.tenant_token}" in p.layer()
            for _ in range(50):
                p.provisioner.reconcile()
        assert questions(server) == []
        assert cluster.reads == 1

    def test_takes_a_changed_token_within_the_jitter_and_reads_nothing_between(
        self, tmp_path: Path, server: double.Tenant, cluster: Reads, kube: dict[str, Any]
    ) -> None:
        tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server, token="dt0a01.renewed"))
            p.wait_until(lambda: "tenantToken dt0a01.renewed" in p.layer())
        assert cluster.reads == 2

    def test_makes_no_configuration_without_the_token_and_says_what_the_tenant_answers(
        self, tmp_path: Path, server: double.Tenant, cluster: Reads, kube: dict[str, Any]
    ) -> None:
        cluster.put(tenant_answers.marked(kube, reason="abc12345.example answered 429; next try at 12:00"))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: VERSION in p.versions(), what=p.condition)
            p.wait_until(lambda: "agents cannot be configured yet" in p.condition(), what=p.condition)
            assert "answered 429; next try at 12:00" in p.condition()
            row = p.row()
            assert row is not None and (row.layer, row.good_layer) == ("", "")
            assert list(p.data.config_layers.iterdir()) == []
            tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server))
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
        assert questions(server) == []

    def test_for_which_a_pod_waits_has_them_and_forgets_that_it_waited(
        self, tmp_path: Path, server: double.Tenant, cluster: Reads, kube: dict[str, Any]
    ) -> None:
        cluster.put(tenant_answers.marked(kube))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: "not been polled yet" in p.condition(), what=p.condition)
            tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server))
            p.wait_until(lambda: (row := p.row()) and row.version, what=p.condition)
            demand.mark(p.data, p.key())
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            p.wait_until(lambda: not demand.list_versions(p.data))
        assert cluster.reads == 1

    def test_that_may_not_read_yet_says_so_and_tries_again(
        self, tmp_path: Path, server: double.Tenant, cluster: Reads, kube: dict[str, Any]
    ) -> None:
        state = tenant_answers.answers(kube, server)
        cluster.put(tenant_answers.marked(kube, state))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: f"the Secret {SECRET} with the tenant's answers" in p.condition(), what=p.condition)
            for _ in range(20):
                p.provisioner.reconcile()
            assert cluster.reads == 1, "not again before its pause is over"
            cluster.secrets[SECRET] = tenant_answers.secret_data(state)
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)

    def test_keeps_what_pods_have_while_the_operator_asks_for_changed_settings(
        self, tmp_path: Path, server: double.Tenant, cluster: Reads, kube: dict[str, Any]
    ) -> None:
        tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            before = p.row()
            moved = manifest("demo", server.api_url, decided=VERSION, networkZone="eu")
            cluster.put(
                tenant_answers.marked(moved, tenant_answers.answers(kube, server))
            )  # The spec has changed, the status not.
            p.provisioner.reconcile()
            cluster.put(tenant_answers.marked(moved))
            p.provisioner.reconcile()
            assert p.row() == before
            tenant_answers.hand_out(cluster, moved, tenant_answers.answers(moved, server, token="dt0a01.eu"))
            p.wait_until(lambda: "tenantToken dt0a01.eu" in p.layer(), what=p.condition)

    def test_starts_again_with_what_it_had_while_the_api_server_is_away(
        self, tmp_path: Path, server: double.Tenant, cluster: Reads, kube: dict[str, Any]
    ) -> None:
        tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            layer = p.layer()
        cluster.unavailable = True
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: cluster.reads == 2)
            p.provisioner.reconcile()
            assert p.is_ready(VERSION)
            assert p.layer() == layer


class TestAnUpgrade:
    def test_of_nodes_before_the_operator_asks_the_tenant_after_a_while(
        self, tmp_path: Path, package: Path, cluster: Reads
    ) -> None:
        cluster.operator_wait_seconds = 1.0
        with double.Tenant() as server:
            server.release(VERSION, package)
            kube = manifest("demo", server.api_url, decided=VERSION)
            cluster.put(kube)
            with Provisioning(tmp_path, cluster) as p:
                p.wait_until(lambda: "no operator has marked this DynaKube yet" in p.condition(), what=p.condition)
                assert server.requests == []
                p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
                asked = len(questions(server))
                assert asked == 2
                # Then the operator follows.
                cluster.put(tenant_answers.marked(kube))
                tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server, token="dt0a01.handed"))
                p.wait_until(lambda: "tenantToken dt0a01.handed" in p.layer(), what=p.condition)
                assert len(questions(server)) == asked

    def test_back_to_an_operator_that_does_not_know_nodes_changes_nothing_for_pods(
        self, tmp_path: Path, package: Path, cluster: Reads
    ) -> None:
        cluster.operator_wait_seconds = 1.0
        with double.Tenant() as server:
            server.release(VERSION, package)
            kube = manifest("demo", server.api_url, decided=VERSION)
            tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server))
            with Provisioning(tmp_path, cluster) as p:
                p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
                before = p.row()
                cluster.put(kube)
                p.wait_until(lambda: len(questions(server)) == 2)
                p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
                assert p.row() == before

    def test_from_a_driver_that_made_a_configuration_without_a_token_takes_it_from_no_pod_s_start(
        self, tmp_path: Path, server: double.Tenant, cluster: Reads, kube: dict[str, Any]
    ) -> None:
        tenant_answers.hand_out(cluster, kube, tenant_answers.answers(kube, server))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            row = p.row()
            assert row is not None
            half = p.data.config_layer(row.tenant, row.layer) / "agent/conf/ruxitagentproc.conf"
            half.write_text(f"[general]\ntenant {row.tenant}\nserverAddress {{a}}\n")
        cluster.put(tenant_answers.marked(kube, reason="answered 429"))
        with Provisioning(tmp_path, cluster) as p:
            p.wait_until(lambda: "agents cannot be configured yet: answered 429" in p.condition(), what=p.condition)
            row = p.row()
            assert row is not None and (row.layer, row.good_layer) == ("", "")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestTheTime:
    def feed(self, draw: float, clock: Clock) -> OperatorFeed:
        return OperatorFeed(60.0, 60.0, clock, lambda: draw)

    def kube(self, config: TenantConfig | None) -> dynakube.DynaKube:
        return replace(dynakube.from_object(manifest("demo", URL)), tenant_config=config)

    @pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
    def test_of_a_read_is_spread_over_half_a_minute(self, draw: float) -> None:
        clock = Clock()
        feed = self.feed(draw, clock)
        config = TenantConfig("new")
        feed.choose(self.kube(TenantConfig("", "soon", is_pending=True)), pod_waits=False)
        assert feed.choose(self.kube(config), pod_waits=False) is Feed.OPERATOR
        assert feed.is_due(config, pod_waits=False) is (draw == 0)
        assert feed.is_due(config, pod_waits=True)
        clock.now += 30 * draw
        assert feed.is_due(config, pod_waits=False)
        feed.done = frozenset({"new"})
        assert not feed.is_due(config, pod_waits=True)

    def test_of_a_read_is_now_after_the_node_s_own_start(self) -> None:
        feed, config = self.feed(1.0, Clock()), TenantConfig("known")
        feed.choose(self.kube(config), pod_waits=False)
        assert feed.is_due(config, pod_waits=False)

    def test_of_a_node_s_own_questions_is_spread_over_a_minute_after_one_of_patience(self) -> None:
        clock = Clock()
        feed = self.feed(0.5, clock)
        assert feed.choose(self.kube(None), pod_waits=True) is Feed.NOT_DECIDED
        clock.now += 60
        assert feed.choose(self.kube(None), pod_waits=False) is Feed.NOT_DECIDED
        assert feed.choose(self.kube(None), pod_waits=True) is Feed.TENANT
        clock.now += 30
        assert feed.choose(self.kube(None), pod_waits=False) is Feed.TENANT

    def test_is_no_matter_without_an_api_server(self) -> None:
        assert OperatorFeed(None).choose(self.kube(None), pod_waits=False) is Feed.TENANT
