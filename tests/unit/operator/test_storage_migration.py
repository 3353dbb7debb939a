"""What becomes of stored objects after an upgrade."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from oneagent.common.dynakube.api import crd
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError, InvalidError, UnavailableError
from oneagent.operator import api, storage_migration
from oneagent.operator.storage_migration import StorageMigration
from tests.fakes.object_api import Objects

CLIENT = {"service": {"name": "oneagent-webhook", "namespace": "dynatrace", "path": "/convert"}}


class World:
    """A cluster with the present CRD, three DynaKubes, and objects stored in two versions."""

    def __init__(self, *stored: str) -> None:
        self.now = 0.0
        self.objects = Objects()
        definition = copy.deepcopy(crd.manifest(CLIENT))
        definition["status"] = {"storedVersions": list(stored or ("v1beta5", "v1beta6"))}
        self.objects.put("CustomResourceDefinition", definition)
        for namespace, name in (("dynatrace", "one"), ("dynatrace", "two"), ("elsewhere", "three")):
            metadata = {"name": name, "namespace": namespace, "labels": {"kept": "yes"}}
            spec = {"apiUrl": "https://tenant.example/api", "unknown": [1, {"deep": None}]}
            self.objects.put("DynaKube", {"metadata": metadata, "spec": spec, "status": {"mode": "none"}})
        self.storage = StorageMigration(self.objects, clock=lambda: self.now)

    def round(self) -> float:
        return asyncio.run(self.storage.reconcile())

    def settled(self) -> float:
        """The round after every API server knows the CRD."""
        self.now += self.round()
        return self.round()

    @property
    def definition(self) -> api.Object:
        return self.objects.stored["CustomResourceDefinition", "", storage_migration.DEFINITION]

    @property
    def stored(self) -> list[str]:
        return list(self.definition["status"]["storedVersions"])

    def written(self) -> list[str]:
        return [name for verb, _, name in self.objects.calls if verb in ("replace", "merge")]

    def contents(self) -> dict[Any, Any]:
        stored = copy.deepcopy({key: stored for key, stored in self.objects.stored.items() if key[0] == "DynaKube"})
        for one in stored.values():
            one["metadata"].pop("resourceVersion")
            one.pop("kind", None)
            one.pop("apiVersion", None)
        return stored


def test_every_object_of_every_namespace_is_written_as_it_is_and_then_the_crd_is_trimmed() -> None:
    world = World()
    before = world.contents()
    world.settled()
    assert world.written() == ["one", "two", "three", storage_migration.DEFINITION]
    assert world.contents() == before
    assert world.stored == ["v1beta6"]
    assert ("merge", "CustomResourceDefinition/status", storage_migration.DEFINITION) in world.objects.calls


def test_objects_are_read_and_written_in_the_storage_version() -> None:
    world = World()
    world.settled()
    assert {stored["apiVersion"] for (kind, *_), stored in world.objects.stored.items() if kind == "DynaKube"} == {
        "dynatrace.com/v1beta6"
    }


def test_nothing_is_written_when_nothing_is_stored_in_another_version() -> None:
    world = World("v1beta6")
    world.settled()
    assert world.written() == []
    assert all(kind != "DynaKube" for _, kind, _ in world.objects.calls)


def test_a_migration_is_done_once() -> None:
    world = World()
    world.settled()
    world.objects.calls.clear()
    assert world.settled() >= 600
    assert world.written() == []


def test_nothing_is_written_before_every_api_server_knows_the_storage_version() -> None:
    world = World()
    assert world.round() == storage_migration.SETTLE_SECONDS
    world.now += storage_migration.SETTLE_SECONDS - 1
    assert world.round() == 1.0
    assert world.written() == []


def test_without_anybody_who_converts_nothing_is_written() -> None:
    world = World()
    world.definition["spec"]["conversion"] = {"strategy": "None"}
    assert world.settled() <= 60
    assert world.written() == []
    assert world.stored == ["v1beta5", "v1beta6"]
    world.definition["spec"]["conversion"] = {"strategy": "Webhook"}
    world.settled()
    assert world.stored == ["v1beta6"]


def test_a_storage_version_that_is_not_served_is_waited_for() -> None:
    world = World()
    world.definition["spec"]["versions"][0]["served"] = False
    world.settled()
    assert world.written() == []


def test_an_object_that_somebody_else_writes_meanwhile_is_migrated_by_that_write() -> None:
    world = World()

    def other(verb: str, kind: str, name: str) -> None:
        if verb == "replace" and name == "two":
            theirs = copy.deepcopy(world.objects.stored["DynaKube", "dynatrace", "two"])
            theirs["spec"]["apiUrl"] = "https://theirs.example/api"
            world.objects.put("DynaKube", theirs)

    world.objects.before = other
    world.settled()
    assert world.objects.stored["DynaKube", "dynatrace", "two"]["spec"]["apiUrl"] == "https://theirs.example/api"
    assert world.stored == ["v1beta6"]


def test_an_object_that_goes_meanwhile_holds_nothing_up() -> None:
    world = World()

    def gone(verb: str, kind: str, name: str) -> None:
        if verb == "replace" and name == "two":
            world.objects.remove("DynaKube", "two", "dynatrace")

    world.objects.before = gone
    world.settled()
    assert world.stored == ["v1beta6"]


@pytest.mark.parametrize("error", [InvalidError, UnavailableError, ForbiddenError])
def test_while_one_object_is_not_migrated_the_crd_keeps_listing_its_version(error: type[ApiError]) -> None:
    world = World()

    def refuse(verb: str, kind: str, name: str) -> None:
        if verb == "replace" and name == "one":
            raise error("refused")

    world.objects.before = refuse
    assert 0 < world.settled() <= 60
    assert world.stored == ["v1beta5", "v1beta6"]
    world.objects.before = lambda verb, kind, name: None
    world.settled()
    assert world.stored == ["v1beta6"]


def test_an_object_that_is_refused_does_not_keep_the_others_from_being_written() -> None:
    world = World()

    def refuse(verb: str, kind: str, name: str) -> None:
        if verb == "replace" and name == "one":
            raise InvalidError("spec.apiUrl: refused")

    world.objects.before = refuse
    world.settled()
    assert world.written() == ["one", "two", "three"]


def test_a_crd_that_gets_another_storage_version_meanwhile_is_not_trimmed_for_the_former_one() -> None:
    world = World()

    def upgrade(verb: str, kind: str, name: str) -> None:
        if verb == "replace" and name == "three":
            newer = copy.deepcopy(world.definition)
            newer["spec"]["versions"][0]["storage"] = False
            newer["spec"]["versions"].append({"name": "v1", "served": True, "storage": True})
            newer["status"]["storedVersions"].append("v1")
            world.objects.put("CustomResourceDefinition", newer)
            world.objects.before = lambda verb, kind, name: None

    world.objects.before = upgrade
    world.now += world.round()
    assert world.round() == 1.0
    assert world.stored == ["v1beta5", "v1beta6", "v1"]
    assert world.round() == storage_migration.SETTLE_SECONDS, "the new one has to be known everywhere, too"
    world.settled()
    assert world.stored == ["v1"]


def test_a_request_to_an_unavailable_api_server_is_repeated() -> None:
    world = World()

    def away(verb: str, kind: str, name: str) -> None:
        raise UnavailableError("away")

    world.objects.before = away
    assert 0 < world.round() <= 60


def test_without_the_crd_there_is_nothing_to_do() -> None:
    world = World()
    world.objects.remove("CustomResourceDefinition", storage_migration.DEFINITION)
    world.round()
    assert world.written() == []
