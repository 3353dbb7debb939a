"""Decisions about the desired state: which rows are written, and who uses a version."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from oneagent.common import dynakube as dynakubes
from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import DynaKubeName, StoreKey, TenantId, Version
from oneagent.common.tenant.image_resolver import MemorySignatures
from oneagent.common.tenant.poll import TenantState
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.dynakube_sources import Snapshot
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.provisioner import package_sources
from oneagent.csi_driver.provisioner.planner import Planner
from oneagent.csi_driver.provisioner.tenant_poller import TenantPoller
from oneagent.csi_driver.store import AgentStore, demand
from tests.fakes import provisioner

LATEST = Version("1.278.0.20231014-094321")
ANSWER = TenantState(polled_at=1.0, tenant=TenantId("abc12345"), latest=LATEST, complete=True)


class Poller:
    """Tenants that have answered, or not yet."""

    def __init__(self) -> None:
        self.answers: dict[str, TenantState] = {}
        self.polled: list[str] = []
        self.hurried: list[str] = []
        """Those of them for which a pod waits."""
        self.delays: dict[str, float] = {}
        self.retained: set[str] = set()

    def state(self, name: str) -> TenantState | None:
        return self.answers.get(name)

    def poll_if_due(self, kube: DynaKube, *, pod_waits: bool = False) -> None:
        self.polled.append(kube.name)
        if pod_waits:
            self.hurried.append(kube.name)

    def first_delay_seconds(self, name: str) -> float:
        return self.delays.get(name, 0.0)

    def waits_for(self, name: str) -> str:
        return f"{name} is being polled"

    def retain(self, names: Collection[str]) -> None:
        self.retained = set(names)


class World:
    def __init__(self, root: Path) -> None:
        self.data = DataDir(root)
        self.data.create()
        self.state = ProvisionerState(
            database.Database(self.data.database, self.data.database_lock), self.data.dynakubes
        )
        self.poller = Poller()
        poller = cast("TenantPoller", self.poller)
        self.planner = Planner(self.data, AgentStore(self.data), self.state, poller, MemorySignatures())

    def rows(self) -> dict[str, str]:
        return {name: row.version for name, row in self.state.desired.items()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def dynakube(name: str = "demo", **fields: Any) -> DynaKube:
    return dynakubes.from_object(provisioner.manifest(name, "https://abc12345.example/api", **fields))


def hosts(name: str) -> DynaKube:
    manifest = provisioner.manifest(name, "https://abc12345.example/api")
    manifest["spec"]["oneAgent"] = {"hostMonitoring": {}}
    return dynakubes.from_object(manifest)


def key(version: Version) -> StoreKey:
    found = package_sources.version_key(dynakube(), version)
    assert found is not None
    return found


def snapshot(*kubes: DynaKube, invalid: Iterable[str] = ()) -> Snapshot:
    return Snapshot({kube.name: kube for kube in kubes}, dict.fromkeys(invalid, "invalid"))


class TestNamesOfDynaKubes:
    def test_are_unknown_before_the_first_report_and_until_each_source_was_asked(self, world: World) -> None:
        assert world.planner.dynakube_names() is None
        world.planner.snapshot = snapshot(dynakube("one"), hosts("hosts"), invalid=["broken"])
        assert world.planner.dynakube_names() is None
        world.poller.answers["one"] = ANSWER
        names = world.planner.dynakube_names()
        assert names is not None
        assert set(names) == {"one", "hosts", "broken"}


class TestAPlan:
    def test_writes_the_rows_and_requests_what_is_missing(self, world: World) -> None:
        world.poller.answers["demo"] = ANSWER
        plan = world.planner.plan(snapshot(dynakube()))
        assert world.rows() == {"demo": key(LATEST)}
        assert [request.version for request in plan.requests] == [key(LATEST)]
        assert (world.poller.polled, world.poller.retained) == (["demo"], {"demo"})

    def test_counts_the_wait_for_a_dynakube_s_first_answers_as_part_of_its_download_s_delay(self, world: World) -> None:
        world.poller.answers["demo"], world.poller.delays["demo"] = ANSWER, 20.0
        (request,) = world.planner.plan(snapshot(dynakube())).requests
        assert request.delayed_seconds == 20.0
        later = dynakube(version="1.400.0.20270101-120000")
        (request,) = world.planner.plan(snapshot(later)).requests
        assert request.delayed_seconds == 0.0, "all nodes see a later version at the same time"

    def test_waits_for_nothing_while_a_pod_waits_for_a_dynakube_whose_version_is_not_known(self, world: World) -> None:
        demand.mark(world.data, demand.of_dynakube(DynaKubeName("demo")))
        world.planner.plan(snapshot(dynakube(), dynakube("other")))
        assert world.poller.hurried == ["demo"]
        world.poller.answers["demo"] = ANSWER
        world.planner.plan(snapshot(dynakube()))
        assert demand.list_versions(world.data) == set()

    def test_polls_no_tenant_for_host_agents_alone(self, world: World) -> None:
        plan = world.planner.plan(snapshot(hosts("hosts")))
        assert [kube.name for kube in plan.dynakubes] == [
            kube.name for kube in [hosts("hosts")] if kube.needs_host_directory
        ]
        assert world.poller.polled == []
        assert world.poller.retained == {"hosts"}

    @pytest.mark.parametrize(
        ("invalid", "stays"), [(["gone"], {"gone"}), (["file.yaml:1"], {"gone", "other"}), (["else"], set())]
    )
    def test_leaves_the_rows_of_dynakubes_that_are_invalid_now(
        self, world: World, invalid: list[str], stays: set[str]
    ) -> None:
        world.state.set_desired([DesiredState(DynaKubeName(name)) for name in ("gone", "other")])
        world.planner.plan(snapshot(invalid=invalid))
        assert set(world.rows()) == stays


class TestAnArrivingVersion:
    def test_gets_its_rows_before_it_is_visible(self, world: World, tmp_path: Path) -> None:
        world.poller.answers["demo"] = ANSWER
        world.planner.snapshot = snapshot(dynakube(), hosts("hosts"))
        world.state.set_desired([DesiredState(DynaKubeName("other"), version=Version("1"))])
        tree = tmp_path / "tree"
        (tree / "agent/conf").mkdir(parents=True)
        (tree / "agent/conf/ruxitagentproc.conf").write_text("[general]\n")
        world.planner.prepare(key(LATEST), tree)
        assert world.rows() == {"demo": key(LATEST), "other": "1"}
        assert world.state.desired[DynaKubeName("demo")].layer

    def test_changes_nothing_before_the_first_report(self, world: World, tmp_path: Path) -> None:
        world.planner.prepare(key(LATEST), tmp_path)
        assert world.rows() == {}


def test_an_error_of_a_decision_is_in_the_rows_of_all_dynakubes(world: World) -> None:
    world.planner.snapshot = snapshot(dynakube("new"))
    world.state.set_desired([DesiredState(DynaKubeName("old"), version=Version("1"))])
    world.planner.report_failure(TypeError("secret"))
    conditions = {name: row.condition for name, row in world.state.desired.items()}
    assert conditions.keys() == {"old", "new"}
    assert all("internal error (TypeError)" in condition for condition in conditions.values())
    assert world.rows() == {"old": "1", "new": ""}
