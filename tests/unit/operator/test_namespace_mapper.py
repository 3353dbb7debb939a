"""The labels of namespaces: written, retried and removed, against a double of the API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import pytest

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.namespace_mapping import LABEL
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError, UnavailableError
from oneagent.operator import api
from oneagent.operator import cache as caches
from oneagent.operator.namespace_mapper import NamespaceMapper
from tests.fakes.object_api import Objects

PATIENCE = 20.0
OLD, YOUNG = DynaKubeName("old"), DynaKubeName("young")
AGES = {OLD: "2026-01-01T00:00:00Z", YOUNG: "2026-02-01T00:00:00Z"}


def claim(dynakube: DynaKubeName) -> namespace_mapping.Claim:
    mode = {"namespaceSelector": {"matchLabels": {"team": "web"}}}
    metadata = {"name": dynakube, "creationTimestamp": AGES[dynakube]}
    manifest = {"metadata": metadata, "spec": {"oneAgent": {"applicationMonitoring": mode}}}
    return namespace_mapping.claim(manifest, "dynatrace")


class World:
    def __init__(self) -> None:
        self.cluster, self.cache = Objects(), caches.Cache()
        self.changed: list[str] = []
        self.released: list[tuple[str, str | None]] = []
        self.failures: list[ApiError] = []
        self.release_error: ApiError | None = None
        self.mapper = NamespaceMapper(cast("api.Api", self.cluster), self.cache, self.changed.append, self._release)
        self.cluster.before = self._answer

    def add(self, name: str, *, team: str = "web", owner: str = "") -> None:
        labels = {"team": team} | ({LABEL: owner} if owner else {})
        self.cluster.put("Namespace", {"metadata": {"name": name, "labels": labels}})
        self.show(name)

    def show(self, name: str) -> None:
        """Put an object into the cache as it is, and report it to the mapper, as the watch does."""
        found = self.cluster.stored.get(("Namespace", "", name))
        if found is None:
            self.cache.namespaces.pop(name)
        else:
            self.cache.namespaces[name] = caches.namespace(found)
        self.mapper.on_namespace(name)

    def label(self, name: str) -> str | None:
        label: str | None = self.cluster.stored["Namespace", "", name]["metadata"]["labels"].get(LABEL)
        return label

    def writes(self, name: str) -> int:
        return self.cluster.calls.count(("merge", "Namespace", name))

    async def _release(self, namespace: str) -> None:
        self.released.append((namespace, self.label(namespace)))
        assert self.mapper.locks[namespace].locked()
        if self.release_error is not None:
            error, self.release_error = self.release_error, None
            raise error

    def _answer(self, verb: str, _kind: str, name: str) -> None:
        if verb == "merge" and name.startswith("bad") and self.failures:
            raise self.failures.pop(0)


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.mapper.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - several kinds of events, seldom for long
            await asyncio.sleep(0.005)


def run(story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def test() -> None:
        world = World()
        async with running(world):
            await story(world)

    asyncio.run(test())


def test_every_namespace_that_a_dynakube_claims_gets_its_label_and_no_other() -> None:
    async def story(world: World) -> None:
        for number in range(40):
            world.add(f"n{number}")
        world.add("other", team="db")
        world.mapper.load({OLD: claim(OLD)})
        await eventually(lambda: world.mapper.is_synced(OLD))
        assert {world.label(f"n{number}") for number in range(40)} == {OLD}
        assert world.writes("other") == 0
        assert world.released == []
        assert world.mapper.owns(OLD, "n7")

    run(story)


def test_a_namespace_that_is_created_later_is_labelled_too() -> None:
    async def story(world: World) -> None:
        world.mapper.load({OLD: claim(OLD)})
        world.add("late")
        await eventually(lambda: world.label("late") == OLD)
        assert world.writes("late") == 1

    run(story)


def test_a_label_goes_with_its_claim_after_the_release() -> None:
    async def story(world: World) -> None:
        world.mapper.load({OLD: claim(OLD)})
        world.add("shop", owner=OLD)
        world.mapper.set_claim(OLD, None)
        await eventually(lambda: world.label("shop") is None)
        assert world.released == [("shop", OLD)]
        assert world.cache.namespaces["shop"].labels == {"team": "web"}

    run(story)


def test_a_namespace_passes_to_the_other_dynakube_that_claims_it_after_the_release() -> None:
    async def story(world: World) -> None:
        world.mapper.load({OLD: claim(OLD), YOUNG: claim(YOUNG)})
        world.add("shop", owner=OLD)
        assert world.mapper.conflicts(YOUNG) == {"shop": OLD}
        assert world.mapper.conflicts(OLD) == {}
        world.mapper.forget(OLD)
        await eventually(lambda: world.label("shop") == YOUNG)
        assert world.released == [("shop", OLD)]
        assert world.mapper.conflicts(YOUNG) == {}
        assert {OLD, YOUNG} <= set(world.changed)

    run(story)


def test_a_label_that_names_no_dynakube_is_removed() -> None:
    async def story(world: World) -> None:
        world.mapper.load({})
        world.add("shop", owner="gone")
        await eventually(lambda: world.label("shop") is None)

    run(story)


def test_a_label_that_is_right_is_not_written() -> None:
    async def story(world: World) -> None:
        world.mapper.load({OLD: claim(OLD)})
        world.add("right", owner=OLD)
        world.add("wrong")
        await eventually(lambda: world.label("wrong") == OLD)
        assert world.writes("right") == 0

    run(story)


@pytest.mark.parametrize("error", [UnavailableError("503"), ForbiddenError("403")])
def test_a_write_that_fails_is_retried_until_it_succeeds_and_holds_up_no_other(error: ApiError) -> None:
    async def story(world: World) -> None:
        world.failures = [error, error]
        world.mapper.load({OLD: claim(OLD)})
        world.add("bad")
        world.add("good")
        await eventually(lambda: world.label("good") == OLD)
        await eventually(lambda: world.mapper.problems)
        assert world.mapper.problems == {"bad": str(error)}
        assert not world.mapper.is_synced(OLD)
        await eventually(lambda: world.label("bad") == OLD)
        assert world.writes("bad") == 3
        assert world.mapper.problems == {}
        assert world.mapper.is_synced(OLD)

    run(story)


def test_a_release_that_fails_keeps_the_label_and_is_retried() -> None:
    async def story(world: World) -> None:
        world.release_error = UnavailableError("503")
        world.mapper.load({OLD: claim(OLD)})
        world.add("shop", owner=OLD)
        world.mapper.set_claim(OLD, None)
        await eventually(lambda: world.mapper.problems)
        assert world.label("shop") == OLD
        await eventually(lambda: world.label("shop") is None)
        assert world.released == [("shop", OLD)] * 2

    run(story)


def test_a_namespace_that_is_deleted_meanwhile_is_no_problem_and_not_retried() -> None:
    async def story(world: World) -> None:
        world.add("gone")
        world.cluster.remove("Namespace", "gone")
        world.mapper.load({OLD: claim(OLD)})
        await eventually(lambda: world.writes("gone"))
        world.show("gone")
        world.add("shop")
        await eventually(lambda: world.label("shop") == OLD)
        assert world.mapper.problems == {}
        assert world.writes("gone") == 1
        assert world.mapper.namespaces_of(OLD) == ["shop"]

    run(story)


def test_somebody_elses_change_of_a_label_is_undone() -> None:
    async def story(world: World) -> None:
        world.mapper.load({OLD: claim(OLD)})
        world.add("shop")
        await eventually(lambda: world.label("shop") == OLD)
        del world.cluster.stored["Namespace", "", "shop"]["metadata"]["labels"][LABEL]
        world.show("shop")
        await eventually(lambda: world.label("shop") == OLD)
        assert world.writes("shop") == 2

    run(story)


def test_waiting_for_a_dynakubes_labels_ends_when_the_last_one_is_seen() -> None:
    async def story(world: World) -> None:
        world.failures = [UnavailableError("503")]
        world.mapper.load({OLD: claim(OLD)})
        world.add("bad")
        waiting = asyncio.create_task(world.mapper.wait_until_synced(OLD))
        await eventually(lambda: world.mapper.problems)
        assert not waiting.done()
        async with asyncio.timeout(PATIENCE):
            await waiting
        assert world.label("bad") == OLD

    run(story)
