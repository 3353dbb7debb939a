from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.kubernetes import errors
from oneagent.webhook.cache import fallback_lookups
from oneagent.webhook.cache import owners as cache_owners
from oneagent.webhook.injection.inputs import Workload
from tests.fakes import kube_api
from tests.unit.webhook.following import FIRST_PAUSE, connected, eventually, running


@pytest.fixture
def kube() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        yield found


@asynccontextmanager
async def known(kube: kube_api.KubeApi, folder: Path, *, watched: bool = True) -> AsyncIterator[cache_owners.Workloads]:
    """Not `followed`: as if the watches were behind."""
    async with connected(kube, folder) as server:
        found = cache_owners.Workloads(server, first_pause=FIRST_PAUSE)
        if not watched:
            yield found
            return
        async with running(found):
            await eventually(lambda: kube.open_watches == 2)
            yield found


def owner(kind: str, name: str, version: str = "apps/v1", *, controller: bool = True) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "name": name, "uid": f"uid-{name}", "controller": controller}


def owned(name: str, *owners: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "ownerReferences": list(owners)}}


def pod(*owners: dict[str, Any], **metadata: str) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {**metadata, "ownerReferences": list(owners)}}


def ask(kube: kube_api.KubeApi, folder: Path, asked: dict[str, Any], *, watched: bool = True) -> Workload:
    async def find() -> Workload:
        async with known(kube, folder, watched=watched) as found:
            return await found.find("shop", asked)

    return asyncio.run(find())


def single_gets(kube: kube_api.KubeApi, plural: str) -> int:
    return sum(not request.path.endswith(plural) for request in kube.seen(plural))


@pytest.mark.parametrize("watched", [True, False], ids=["from memory", "asked for"])
@pytest.mark.parametrize(
    ("plural", "direct", "top"),
    [
        ("replicasets", owner("ReplicaSet", "cart-5d"), owner("Deployment", "cart")),
        ("replicasets", owner("ReplicaSet", "cart-5d"), owner("Rollout", "cart", "argoproj.io/v1alpha1")),
        ("jobs", owner("Job", "nightly-1", "batch/v1"), owner("CronJob", "nightly", "batch/v1")),
    ],
    ids=["Deployment", "Rollout", "CronJob"],
)
def test_the_controller_of_a_replicaset_or_job_is_the_workload(
    kube: kube_api.KubeApi, tmp_path: Path, plural: str, direct: dict[str, Any], top: dict[str, Any], watched: bool
) -> None:
    kube.put(plural, owned(direct["name"], owner("Thing", "by-the-way", controller=False), top))
    found = ask(kube, tmp_path, pod(direct), watched=watched)
    assert found == Workload(top["kind"], top["name"])
    assert single_gets(kube, plural) == (not watched)


@pytest.mark.parametrize(
    ("owners", "workload"),
    [
        ([owner("DeploymentConfig", "cart", "apps.openshift.io/v1")], Workload("DeploymentConfig", "cart")),
        ([], Workload("ReplicationController", "cart-1")),
    ],
)
def test_a_replicationcontroller_is_asked_for_and_not_followed(
    kube: kube_api.KubeApi, tmp_path: Path, owners: list[dict[str, Any]], workload: Workload
) -> None:
    kube.put("replicationcontrollers", owned("cart-1", *owners))
    assert ask(kube, tmp_path, pod(owner("ReplicationController", "cart-1", "v1"))) == workload
    (asked,) = kube.seen("replicationcontrollers")
    assert asked.path == "/api/v1/namespaces/shop/replicationcontrollers/cart-1"


@pytest.mark.parametrize("watched", [True, False], ids=["from memory", "asked for"])
def test_a_job_that_nothing_controls_is_the_workload(kube: kube_api.KubeApi, tmp_path: Path, watched: bool) -> None:
    kube.put("jobs", {"metadata": {"name": "once", "namespace": "shop"}})
    job = pod(owner("Job", "once", "batch/v1"))
    assert ask(kube, tmp_path, job, watched=watched) == Workload("Job", "once")


@pytest.mark.parametrize(
    ("asked", "workload"),
    [
        (pod(owner("StatefulSet", "db"), name="db-0"), Workload("StatefulSet", "db")),
        (pod(owner("DaemonSet", "logs"), generateName="logs-"), Workload("DaemonSet", "logs")),
        (pod(owner("ReplicaSet", "mine", "example.com/v1")), Workload("ReplicaSet", "mine")),
        (pod(owner("Deployment", "cart", controller=False), name="cart"), Workload("Pod", "cart")),
        (pod(name="one"), Workload("Pod", "one")),
        (pod(generateName="many-of-"), Workload("Pod", "many-of")),
        ({"metadata": None}, Workload("Pod", "")),
        ({}, Workload("Pod", "")),
    ],
)
def test_any_other_pod_tells_its_workload_itself(
    kube: kube_api.KubeApi, tmp_path: Path, asked: dict[str, Any], workload: Workload
) -> None:
    assert ask(kube, tmp_path, asked, watched=False) == workload
    assert kube.requests == []


@pytest.mark.parametrize("name", ["../../../../api/v1/secrets/x", "..", "a/b", "a?b", "A", ""])
def test_a_name_that_no_object_can_have_is_not_asked_for(kube: kube_api.KubeApi, tmp_path: Path, name: str) -> None:
    asked = pod(owner("ReplicaSet", name))
    assert ask(kube, tmp_path, asked, watched=False) == Workload("ReplicaSet", name)
    assert kube.requests == []


def test_what_cannot_be_read_leaves_the_direct_controller(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    kube.forbidden.add("replicasets")
    assert ask(kube, tmp_path, pod(owner("ReplicaSet", "cart-5d")), watched=False) == Workload("ReplicaSet", "cart-5d")


def test_many_pods_of_a_new_replicaset_cost_one_request(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        async with known(kube, tmp_path) as found:
            kube.held.add("replicasets")
            waiting = [asyncio.create_task(found.find("shop", pod(owner("ReplicaSet", "cart-5d")))) for _ in range(300)]
            await eventually(lambda: single_gets(kube, "replicasets"))
            waiting[0].cancel()
            kube.put("replicasets", owned("cart-5d", owner("Deployment", "cart")))
            kube.release("replicasets")
            hung_up, *answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(hung_up, asyncio.CancelledError)
        assert answers == [Workload("Deployment", "cart")] * 299
        assert single_gets(kube, "replicasets") == 1

    asyncio.run(test())


def test_an_api_server_that_does_not_answer_delays_a_pod_by_no_more_than_half_a_second(
    kube: kube_api.KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback_lookups, "_MISS_SECONDS", 60.0)

    async def test() -> None:
        async with known(kube, tmp_path, watched=False) as found:
            kube.held.add("jobs")
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout(15):
                for _ in range(3):  # The second and third get the same answer at once.
                    asked = pod(owner("Job", "once", "batch/v1"))
                    assert await found.find("shop", asked) == Workload("Job", "once")
            assert asyncio.get_running_loop().time() - began >= fallback_lookups.WAIT_SECONDS
            kube.release("jobs")
        assert single_gets(kube, "jobs") == 1

    asyncio.run(test())


def test_an_answer_is_kept_for_seconds_and_a_failure_for_one() -> None:
    now, fetched = 100.0, []

    async def fetch(key: str) -> str:
        fetched.append(key)
        if key == "lost":
            raise errors.NotFoundError("404")
        return key.upper()

    async def test() -> None:
        nonlocal now
        found = fallback_lookups.FallbackLookups(fetch, clock=lambda: now)
        for at, asked in ((100.0, 2), (100.9, 2), (101.1, 3), (104.9, 4), (105.1, 5)):
            now = at
            assert [await found.get(key) for key in ("cart", "lost")] == ["CART", None]
            assert len(fetched) == asked

    asyncio.run(test())


def test_replicasets_of_one_deployment_share_their_workload(kube: kube_api.KubeApi, tmp_path: Path) -> None:
    async def test() -> None:
        for revision in range(3):
            kube.put("replicasets", owned(f"cart-{revision}", owner("Deployment", "cart")))
        async with known(kube, tmp_path) as found:
            kept = found.watched["apps", "ReplicaSet"].watch.objects
            assert len({id(workload) for workload in kept.values()}) == 1 < len(kept)

    asyncio.run(test())
