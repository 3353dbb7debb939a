"""What listing everything again does to what the watches have seen."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from oneagent.common.identifiers import DynaKubeName
from oneagent.operator import api
from oneagent.operator.cache import Cache
from oneagent.operator.watches import Watches
from tests.fakes.object_api import Objects


class Told:
    """Whom changes are told to."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] = []

    def dynakube_changed(self, name: DynaKubeName) -> None:
        self.changes.append(("DynaKube", name))

    def namespace_changed(self, name: str) -> None:
        self.changes.append(("Namespace", name))

    def object_changed(self, kind: str, name: str) -> None:
        self.changes.append((kind, name))


class World:
    def __init__(self) -> None:
        self.objects, self.observed, self.told = Objects(), Cache(), Told()
        server = cast("api.Api", self.objects)
        self.watching = Watches(server, "dynatrace", api.dynakubes("v1beta6"), self.observed, self.told)

    def node(self, name: str, **labels: str) -> api.Object:
        return self.objects.put("Node", {"metadata": {"name": name, "labels": labels}})

    def list_all(self) -> list[tuple[str, str]]:
        """Who was told what."""
        self.told.changes.clear()
        asyncio.run(self.watching.list_all())
        return self.told.changes


def test_a_node_that_went_unseen_is_dropped() -> None:
    world = World()
    world.node("one")
    world.list_all()
    world.objects.remove("Node", "one")
    assert world.list_all() == [("Node", "one")]
    assert not world.observed.nodes


def test_a_node_that_is_made_anew_while_nodes_are_listed_stays() -> None:
    world = World()
    world.node("one", pool="a")
    world.list_all()
    world.objects.remove("Node", "one")

    def anew(verb: str, kind: str, name: str) -> None:
        """The list that is being answered does not have it, but the watch tells."""
        if (verb, kind) == ("list", "Node"):
            made: dict[str, Any] = world.node("one", pool="b")
            world.objects.remove("Node", "one")
            world.watching.see_node("one", made, False)

    world.objects.before = anew
    world.list_all()
    assert world.observed.nodes == {"one": {"pool": "b"}}


def test_a_list_that_is_older_than_the_watch_changes_nothing() -> None:
    world = World()
    old = world.node("one", pool="a")
    world.watching.see_node("one", world.node("one", pool="b"), False)
    world.watching.see_node("one", old, False)
    assert world.observed.nodes == {"one": {"pool": "b"}}
