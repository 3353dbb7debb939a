"""The watches fill the cache and report changes, over a real connection."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kubernetes.aio import client

from oneagent.common.identifiers import DRIVER_NAME, DynaKubeName
from oneagent.operator import api, cache
from oneagent.operator.cache import Cache
from oneagent.operator.host_agents import rollout
from oneagent.operator.watches import AGENT_LABELS, Watches
from tests.fakes import kube_api

WATCHES = 11
PATIENCE = 20.0


class Changes:
    """A listener."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.restores = 0
        self.broken = ""

    def dynakube_changed(self, name: DynaKubeName) -> None:
        self.seen.append(("DynaKube", name))

    def namespace_changed(self, name: str) -> None:
        self.seen.append(("Namespace", name))

    def object_changed(self, kind: str, name: str) -> None:
        if name == self.broken:
            raise RuntimeError("a mistake of ours")
        self.seen.append((kind, name))

    def cluster_restored(self) -> None:
        self.restores += 1


class World:
    def __init__(self, kube: kube_api.KubeApi, server: api.Api) -> None:
        self.kube, self.cache, self.changes = kube, Cache(), Changes()
        resource = api.dynakubes("v1beta6")
        self.watches = Watches(
            server, "dynatrace", resource, self.cache, self.changes, startup_taint=True, first_pause=0.02
        )

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
                await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """A change of a ConfigMap comes through after all others before it, or nearly so."""
        self.kube.put("configmaps", {"metadata": {"name": "last"}})
        await self.until(lambda: ("ConfigMap", "last") in self.changes.seen)
        await asyncio.sleep(0.1)

    def break_watches(self) -> None:
        self.kube.compact()
        self.kube.cut()


@pytest.fixture
def kube() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        yield found


@asynccontextmanager
async def connected(kube: kube_api.KubeApi) -> AsyncIterator[World]:
    server = api.Api(client.ApiClient(client.Configuration(host=kube.url)))
    world = World(kube, server)
    running = asyncio.create_task(world.watches.run())
    try:
        yield world
    finally:
        running.cancel()
        await asyncio.wait((running,))
        await server.close()


def run(kube: kube_api.KubeApi, story: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Let a story begin when everything is listed and watched."""

    async def test() -> None:
        async with connected(kube) as world:
            await world.watches.wait_until_synced()
            await world.until(lambda: kube.open_watches == WATCHES)
            world.changes.seen.clear()
            await story(world)

    asyncio.run(test())


def named(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


def test_everything_is_in_the_cache_before_it_counts_as_synced(kube: kube_api.KubeApi) -> None:
    kube.put("dynakubes", {**named("prod"), "spec": {}})
    kube.put("namespaces", {"metadata": {"name": "kube-system", "uid": "c0ffee"}})
    kube.put("nodes", named("one", pool="a"))
    kube.put("daemonsets", named("agent"))
    kube.put("pods", named("agent-1", **AGENT_LABELS))
    kube.put("pods", named("other"))
    kube.put("csidrivers", {**named(DRIVER_NAME), "spec": {"volumeLifecycleModes": ["Ephemeral"]}})

    async def story(world: World) -> None:
        assert set(world.cache.dynakubes) == {"prod"}
        assert world.cache.dynakubes[DynaKubeName("prod")]["kind"] == "DynaKube"
        assert world.cache.cluster_id == "c0ffee"
        assert world.cache.nodes == {"one": {"pool": "a"}}
        assert set(world.cache.daemon_sets) == {"agent"}
        assert set(world.cache.agent_pods) == {"agent-1"}
        assert world.cache.csi_installed
        assert not world.watches.problem

    run(kube, story)


def test_the_reason_why_something_cannot_be_listed_is_named(kube: kube_api.KubeApi) -> None:
    kube.forbidden.add("nodes")

    async def test() -> None:
        async with connected(kube) as world:
            assert world.watches.problem == "initial list not finished"
            await world.until(lambda: "403" in world.watches.problem)
            assert "/api/v1/nodes" in world.watches.problem
            kube.forbidden.clear()
            await world.watches.wait_until_synced()
            assert not world.watches.problem

    asyncio.run(test())


def test_objects_that_were_deleted_while_a_watch_was_broken_are_dropped(kube: kube_api.KubeApi) -> None:
    for name in ("one", "two"):
        kube.put("nodes", named(name))
        kube.put("daemonsets", named(name))
        kube.put("dynakubes", {**named(name), "spec": {}})

    async def story(world: World) -> None:
        with kube.changed:
            for plural in ("nodes", "daemonsets", "dynakubes"):
                kube.delete(plural, "one")
            world.break_watches()
        kinds = {("Node", "one"), ("DaemonSet", "one"), ("DynaKube", "one")}
        await world.until(lambda: kinds <= set(world.changes.seen))
        assert set(world.cache.nodes) == set(world.cache.daemon_sets) == set(world.cache.dynakubes) == {"two"}
        await world.settle()
        # What is as it was is not reported.
        assert not {change for change in world.changes.seen if change[1] == "two"}

    run(kube, story)


def test_a_node_that_was_recreated_while_a_watch_was_broken_has_its_new_labels(kube: kube_api.KubeApi) -> None:
    kube.put("nodes", named("one", pool="a"))

    async def story(world: World) -> None:
        with kube.changed:
            kube.delete("nodes", "one")
            kube.put("nodes", named("one", pool="b"))
            world.break_watches()
        await world.until(lambda: world.cache.nodes == {"one": {"pool": "b"}})
        assert ("Node", "one") in world.changes.seen

    run(kube, story)


def test_a_node_that_only_reports_itself_is_no_change(kube: kube_api.KubeApi) -> None:
    kube.put("nodes", named("one", pool="a"))

    async def story(world: World) -> None:
        kube.put("nodes", {**named("one", pool="a"), "status": {"phase": "x"}})
        await world.settle()
        assert ("Node", "one") not in world.changes.seen
        kube.put("nodes", named("one", pool="b"))
        await world.until(lambda: ("Node", "one") in world.changes.seen)

    run(kube, story)


def written(*managers: tuple[str, str, str]) -> dict[str, Any]:
    """A node with these writers, times and subresources."""
    node = named("one", pool="a")
    fields = [{"manager": who, "time": at, **({"subresource": what} if what else {})} for who, at, what in managers]
    node["metadata"]["managedFields"] = fields
    return node


def test_a_change_of_a_nodes_spec_is_reported_and_kubelets_report_is_not(kube: kube_api.KubeApi) -> None:
    first = ("kubelet", "2026-10-01T12:00:00Z", "")
    kube.put("nodes", written(first, ("kubelet", "2026-10-01T12:00:00Z", "status")))

    async def story(world: World) -> None:
        kube.put("nodes", written(first, ("kubelet", "2026-10-01T12:05:00Z", "status")))
        await world.settle()
        assert ("Node", "one") not in world.changes.seen
        kube.put("nodes", written(first, ("kubectl-taint", "2026-10-01T12:06:00Z", "")))
        await world.until(lambda: ("Node", "one") in world.changes.seen)

    run(kube, story)
    requests = [*kube.seen("nodes"), *kube.seen("nodes", watch=True)]
    assert all("as=PartialObjectMetadata" in request.headers["Accept"] for request in requests)


def test_of_a_drivers_pod_only_what_decisions_need_is_kept(kube: kube_api.KubeApi) -> None:
    labels = {"app.kubernetes.io/name": "oneagent-csi", "app.kubernetes.io/component": "csi-driver"}
    ports = [{"name": "prov-metrics", "containerPort": 8090}]
    spec = {"nodeName": "one", "containers": [{"name": "provisioner", "image": "x", "ports": ports}], "volumes": [{}]}
    pod = {"metadata": {"name": "driver-x", "namespace": "dynatrace", "labels": labels}, "spec": spec}
    kube.put("pods", {**pod, "status": {"podIP": "10.0.0.1", "phase": "Running"}})
    kube.put("pods", {**pod, "metadata": {"name": "other", "namespace": "dynatrace"}})

    async def story(world: World) -> None:
        kept = {"nodeName": "one", "affinity": None, "containers": [{"ports": ports}]}
        assert world.cache.driver_pods == {"driver-x": {"metadata": {}, "spec": kept, "status": {"podIP": "10.0.0.1"}}}
        kube.delete("pods", "driver-x", "dynatrace")
        await world.until(lambda: not world.cache.driver_pods)
        assert ("DriverPod", "driver-x") in world.changes.seen

    run(kube, story)


def test_of_a_host_agents_pod_only_what_a_rollouts_progress_needs_is_kept(kube: kube_api.KubeApi) -> None:
    early, late = "2026-01-01T12:00:00Z", "2026-01-01T12:09:00Z"
    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": late}}
    pulling = {"waiting": {"reason": "ImagePullBackOff", "message": "back-off pulling image"}}
    container = {"name": "agent", "image": "x", "restartCount": 4, "state": pulling, "lastState": ended}
    ready = {"type": "Ready", "status": "False", "lastProbeTime": None, "lastTransitionTime": early}
    unscheduled = {**ready, "type": "PodScheduled", "reason": "Unschedulable", "message": "too many pods"}
    bare = {"name": "agent-1", "namespace": "dynatrace", "labels": AGENT_LABELS, "creationTimestamp": early}
    statuses: list[dict[str, Any]] = [
        {"hostIP": "10.0.0.1", "podIP": "10.0.0.2", "conditions": [ready], "containerStatuses": [container]},
        {"conditions": [ready], "initContainerStatuses": [{**container, "restartCount": 0}]},
        {"conditions": [ready, unscheduled], "containerStatuses": None},
        {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
        {},
    ]
    spec = {"nodeName": "one", "containers": [{"name": "agent", "image": "x"}], "volumes": [{"name": "root"}]}
    pods = [{"metadata": bare, "spec": spec, "status": status} for status in statuses]
    pods.append({"metadata": {**bare, "deletionTimestamp": early}, "spec": spec, "status": statuses[0]})
    daemon_set = {"metadata": {}, "status": {"desiredNumberScheduled": 1}}

    async def story(world: World) -> None:
        for pod in pods:
            world.changes.seen.clear()
            kube.put("pods", pod)
            await world.until(lambda: ("Pod", "agent-1") in world.changes.seen)
            kept = world.cache.agent_pods["agent-1"]
            assert not {"containers", "volumes"} & kept["spec"].keys()
            assert rollout.instances([kept]) == rollout.instances([pod])
            for minutes in (5, 15):
                now = datetime.datetime(2026, 1, 1, 12, minutes, tzinfo=datetime.UTC).timestamp()
                assert rollout.progress(daemon_set, [kept], now) == rollout.progress(daemon_set, [pod], now)
        world.changes.seen.clear()
        kube.put("pods", {**pods[-1], "spec": {**spec, "volumes": []}})
        await world.settle()
        assert ("Pod", "agent-1") not in world.changes.seen

    run(kube, story)


def test_our_own_status_of_a_dynakube_is_no_change_and_its_owners_spec_is(kube: kube_api.KubeApi) -> None:
    kube.put("dynakubes", {"metadata": {"name": "prod", "uid": "1", "generation": 1}, "spec": {}})

    async def story(world: World) -> None:
        metadata = {"name": "prod", "uid": "1", "generation": 1}
        kube.put("dynakubes", {"metadata": metadata, "spec": {}, "status": {"phase": "x"}})
        await world.settle()
        assert ("DynaKube", "prod") not in world.changes.seen
        assert world.cache.dynakubes[DynaKubeName("prod")]["status"] == {"phase": "x"}
        kube.put("dynakubes", {"metadata": {"name": "prod", "uid": "1", "generation": 2}, "spec": {"proxy": {}}})
        await world.until(lambda: ("DynaKube", "prod") in world.changes.seen)

    run(kube, story)


def test_secrets_are_reported_and_not_fetched(kube: kube_api.KubeApi) -> None:
    async def story(world: World) -> None:
        kube.put("secrets", {**named("tokens"), "data": {"apiToken": "c2VjcmV0"}})
        await world.until(lambda: ("Secret", "tokens") in world.changes.seen)

    run(kube, story)
    requests = [*kube.seen("secrets"), *kube.seen("secrets", watch=True)]
    assert requests
    assert all("as=PartialObjectMetadata" in request.headers["Accept"] for request in requests)


def test_a_mistake_of_ours_about_one_object_hides_no_other(
    kube: kube_api.KubeApi, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(world: World) -> None:
        world.changes.broken = "odd"
        kube.put("secrets", named("odd"))
        kube.put("secrets", named("fine"))
        await world.until(lambda: ("Secret", "fine") in world.changes.seen)

    run(kube, story)
    assert [record.message for record in caplog.records if record.exc_info] == ["change not handled"]


@pytest.mark.parametrize("bump", [0, 1_000_000])
def test_after_a_restore_of_etcd_its_namespaces_count_although_their_versions_are_lower(
    kube: kube_api.KubeApi, bump: int
) -> None:
    kube.put("namespaces", named("shop", team="a"))
    kube.put("namespaces", named("bank", team="a"))
    kube.put("dynakubes", {"metadata": {"name": "prod", "uid": "1", "generation": 1}, "spec": {"apiUrl": "a"}})
    backup = kube.backup()

    async def story(world: World) -> None:
        kube.put("namespaces", named("shop", team="b"))
        kube.put("namespaces", named("new"))
        kube.put("dynakubes", {"metadata": {"name": "prod", "uid": "1", "generation": 2}, "spec": {"apiUrl": "b"}})
        await world.until(lambda: {("Namespace", "new"), ("DynaKube", "prod")} <= set(world.changes.seen))
        world.changes.seen.clear()
        kube.restore(backup, bump=bump)
        if not bump:
            # Watches from the future are silent until a bookmark has an older version.
            kube.bookmark()
        await world.until(lambda: world.changes.restores)
        assert world.cache.namespaces["shop"].labels == {"team": "a"}
        assert "new" not in world.cache.namespaces
        assert {("Namespace", "shop"), ("Namespace", "new")} <= set(world.changes.seen)
        await world.until(lambda: ("DynaKube", "prod") in world.changes.seen)
        world.changes.seen.clear()
        kube.put("namespaces", named("bank", team="c"))
        kube.put("dynakubes", {"metadata": {"name": "prod", "uid": "1", "generation": 2}, "spec": {"apiUrl": "c"}})
        await world.until(lambda: {("Namespace", "bank"), ("DynaKube", "prod")} <= set(world.changes.seen))
        assert world.cache.namespaces["bank"].labels == {"team": "c"}
        assert world.changes.restores == 1

    run(kube, story)


def test_a_list_after_a_broken_watch_is_no_restore(kube: kube_api.KubeApi) -> None:
    kube.put("namespaces", named("shop"))

    async def story(world: World) -> None:
        kube.put("namespaces", named("shop", team="b"))
        world.break_watches()
        await world.until(lambda: world.cache.namespaces["shop"].labels == {"team": "b"})
        await world.settle()
        assert not world.changes.restores

    run(kube, story)


def test_a_spec_of_the_same_generation_is_a_change() -> None:
    async def test() -> None:
        server = api.Api(client.ApiClient(client.Configuration(host="http://127.0.0.1:1")))
        changes = Changes()
        watches = Watches(server, "dynatrace", api.dynakubes("v1beta6"), Cache(), changes)
        for url in ("a", "a", "b"):
            manifest = {"metadata": {"name": "prod", "uid": "1", "generation": 2}, "spec": {"apiUrl": url}}
            watches.on_dynakube("prod", manifest)
        assert changes.seen == [("DynaKube", "prod")] * 2
        await server.close()

    asyncio.run(test())


def test_an_event_that_is_older_than_our_own_write_changes_nothing() -> None:
    async def test() -> None:
        server = api.Api(client.ApiClient(client.Configuration(host="http://127.0.0.1:1")))
        observed, changes = Cache(), Changes()
        watches = Watches(server, "dynatrace", api.dynakubes("v1beta6"), observed, changes)
        observed.namespaces["shop"] = new = cache.Namespace({"team": "b"}, terminating=False, version=8)
        watches.on_namespace("shop", cache.Namespace({"team": "a"}, terminating=False, version=7))
        assert observed.namespaces["shop"] == new
        assert not changes.seen
        await server.close()

    asyncio.run(test())
