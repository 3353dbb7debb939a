"""The second call, after another webhook has changed the pod: what is new gets what it lacks, nothing comes twice."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.injection import pod_annotations
from oneagent.webhook import injection
from oneagent.webhook.injection.inputs import InjectionResult
from tests.unit.webhook.injection import cases
from tests.unit.webhook.injection.cases import Manifest

LIBRARY = "/opt/dynatrace/oneagent-paas/agent/lib64/liboneagentproc.so"
PROXY = {"name": "proxy", "image": "proxy:1", "env": [{"name": "A", "value": "a"}]}


def inject(pod: Manifest, **case: Any) -> InjectionResult:
    return injection.inject(pod, cases.arguments(case)[1], cases.SETTINGS)


def injected(**case: Any) -> Manifest:
    pod, facts = cases.arguments(case)
    return cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)


def ours(pod: Manifest) -> Manifest:
    found: list[Manifest] = [c for c in pod["spec"]["initContainers"] if c["name"] == "install-oneagent"]
    assert len(found) == 1
    return found[0]


def values(container: Manifest) -> dict[str, str]:
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


class TestAContainerThatCameInBetween:
    @pytest.mark.parametrize("csi", [True, False])
    def test_gets_what_the_others_have(self, csi: bool) -> None:
        pod = injected(facts={"csi": csi})
        pod["spec"]["containers"].insert(0, copy.deepcopy(PROXY))
        outcome = inject(pod, facts={"csi": csi})
        pod = cases.patched(pod, outcome.patch)
        proxy, web = pod["spec"]["containers"]
        assert values(proxy)["LD_PRELOAD"] == LIBRARY
        assert {m["mountPath"] for m in proxy["volumeMounts"]} == {m["mountPath"] for m in web["volumeMounts"]}
        assert "container_proxy.conf" in {mount.get("subPath") for mount in proxy["volumeMounts"]}
        assert (
            values(ours(pod)).items()
            >= {
                "CONTAINERS_COUNT": "2",
                "CONTAINER_1_NAME": "web",
                "CONTAINER_2_NAME": "proxy",
                "CONTAINER_2_IMAGE": "proxy:1",
            }.items()
        )
        if csi:
            assert pod["spec"]["volumes"][0]["csi"]["volumeAttributes"]["containers"] == "web,proxy"
        assert list(inject(pod, facts={"csi": csi}).patch) == []

    def test_gets_enrichment_only_where_the_pod_has_only_that(self) -> None:
        enriched = {"spec": {"metadataEnrichment": {"enabled": True}}}
        off = {"metadata": {"annotations": {"oneagent.dynatrace.com/inject": "false"}}}
        pod = injected(dynakube=enriched, pod=off)
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        pod = cases.patched(pod, inject(pod, dynakube=enriched).patch)
        assert values(pod["spec"]["containers"][1]) == {"A": "a"}
        assert [m["subPath"] for m in pod["spec"]["containers"][1]["volumeMounts"]] == ["enrichment"]
        assert "CONTAINERS_COUNT" not in values(ours(pod))

    def test_is_counted_even_if_somebody_took_the_count_away(self) -> None:
        pod = injected()
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        ours(pod)["env"] = [v for v in ours(pod)["env"] if v["name"] != "CONTAINERS_COUNT"]
        pod = cases.patched(pod, inject(pod).patch)
        assert values(ours(pod)).items() >= {"CONTAINERS_COUNT": "2", "CONTAINER_2_NAME": "proxy"}.items()

    def test_stays_out_if_it_is_excluded(self) -> None:
        pod = injected()
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        pod["metadata"]["annotations"]["container.inject.dynatrace.com/proxy"] = "false"
        assert [operation["path"] for operation in inject(pod).patch] == [
            "/metadata/annotations/oneagent.dynatrace.com~1handled-containers"
        ]

    def test_stays_out_where_pods_are_not_looked_at_again(self) -> None:
        pod = injected()
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        off = {"metadata": {"annotations": {"feature.dynatrace.com/webhook-reinvocation-policy": "false"}}}
        assert inject(pod, dynakube=off) == InjectionResult(injected=True, reason="")

    def test_gets_what_the_pod_has_although_the_dynakube_has_changed(self) -> None:
        pod = injected(pod={"metadata": {"annotations": {"oneagent.dynatrace.com/install-path": "/opt/agent"}}})
        del pod["metadata"]["annotations"]["oneagent.dynatrace.com/install-path"]
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        changed = {"metadata": {"annotations": {"feature.dynatrace.com/injection-readonly-volume": "true"}}}
        pod = cases.patched(pod, inject(pod, dynakube=changed, facts={"csi": False, "driver_problem": "x"}).patch)
        proxy = pod["spec"]["containers"][1]
        assert values(proxy)["LD_PRELOAD"].startswith("/opt/agent/")
        assert proxy["volumeMounts"][0] == {"name": "oneagent-bin", "mountPath": "/opt/agent"}

    def test_that_starts_before_ours_waits_for_nothing_of_ours(self) -> None:
        pod = injected()
        pod["spec"]["initContainers"].insert(0, {**PROXY, "restartPolicy": "Always"})
        assert [operation["path"] for operation in inject(pod).patch] == [
            "/metadata/annotations/oneagent.dynatrace.com~1handled-containers"
        ]

    def test_that_starts_after_ours_gets_the_agent(self) -> None:
        pod = injected()
        pod["spec"]["initContainers"].append({**copy.deepcopy(PROXY), "restartPolicy": "Always"})
        pod = cases.patched(pod, inject(pod).patch)
        assert values(pod["spec"]["initContainers"][1])["LD_PRELOAD"] == LIBRARY
        assert values(ours(pod))["CONTAINER_2_NAME"] == "proxy"

    def test_is_told_of_if_something_of_its_own_is_in_the_way(self) -> None:
        pod = injected()
        mount = {"name": "mine", "mountPath": "/opt/dynatrace/oneagent-paas"}
        pod["spec"]["containers"].append({**PROXY, "volumeMounts": [mount]})
        outcome = inject(pod)
        assert [notice.reason for notice in outcome.notices] == ["ContainerNotInjected"]
        assert list(inject(cases.patched(pod, outcome.patch)).patch) == []


class TestAPodThatIsDone:
    @pytest.mark.parametrize("path", cases.CASES, ids=lambda path: path.stem)
    def test_lacks_nothing_even_if_nobody_says_that_it_is_done(self, path: Any) -> None:
        pod, facts = cases.arguments(cases.load(path))
        pod = cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)
        said = pod["metadata"]["annotations"].pop(pod_annotations.HANDLED, None)
        changed = injection.inject(pod, facts, cases.SETTINGS).patch
        expected = f"/metadata/annotations/{pod_annotations.HANDLED.replace('/', '~1')}"
        assert [operation["path"] for operation in changed] == ([expected] if said else [])

    def test_stays_done_when_others_change_what_is_not_ours(self) -> None:
        pod = injected()
        ours(pod)["image"] = "mirror.example.com/oneagent-csi:1"
        pod["spec"]["containers"].reverse()
        pod["spec"]["initContainers"].insert(0, {"name": "first", "image": "first:1"})
        pod["metadata"]["labels"] = {"other": "webhook"}
        assert inject(pod) == InjectionResult(injected=True, reason="")

    def test_stays_done_when_its_dynakube_is_gone_or_not_ready(self) -> None:
        pod = injected()
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        for dynakube in ({"spec": {"apiUrl": "x"}}, {"status": None}):
            assert inject(pod, dynakube=dynakube).injected


def drop(pod: Manifest) -> None:
    pod["spec"]["initContainers"] = [c for c in pod["spec"]["initContainers"] if c["name"] != "install-oneagent"]


def drop_volume(name: str) -> Callable[[Manifest], object]:
    def spoil(pod: Manifest) -> None:
        pod["spec"]["volumes"] = [volume for volume in pod["spec"]["volumes"] if volume["name"] != name]

    return spoil


def drop_all_mounts(pod: Manifest) -> None:
    drop(pod)
    pod["spec"]["containers"][0]["volumeMounts"] = []


SPOILT: dict[str, Callable[[Manifest], object]] = {
    "no init container": drop,
    "no volumes": lambda pod: pod["spec"].pop("volumes"),
    "no agent's volume": drop_volume("oneagent-bin"),
    "no volume for files": drop_volume("oneagent-share"),
    "nothing mounted by ours": lambda pod: ours(pod).pop("volumeMounts"),
    "another command": lambda pod: ours(pod).update(command=["/wrapper", "install-oneagent"]),
    "arguments": lambda pod: ours(pod).update(args=["--debug"]),
    "another name": lambda pod: ours(pod).update(name="wrapped"),
    "another volume of the name": lambda pod: pod["spec"]["volumes"][0].update(csi={"driver": "csi.example.com"}),
}
READ_ONLY = {"metadata": {"annotations": {"feature.dynatrace.com/injection-readonly-volume": "true"}}}


def is_taken_out(outcome: InjectionResult, pod: Manifest, original: Manifest) -> None:
    """Assert that the pod has nothing of an injection, and annotations with the reason."""
    assert (outcome.injected, outcome.reason) == (False, "InjectionIncomplete")
    assert [notice.reason for notice in outcome.notices] == ["InjectionIncomplete"]
    after = cases.patched(pod, outcome.patch)
    annotations = after["metadata"]["annotations"]
    assert annotations == {
        **original["metadata"]["annotations"],
        pod_annotations.AGENT_INJECTED: "false",
        pod_annotations.DYNAKUBE_INJECTED: "false",
        pod_annotations.REASON: "InjectionIncomplete",
    }
    spec = after["spec"]
    assert [container for container in spec.pop("initContainers", []) if container["name"] != "wrapped"] == []
    spec["volumes"] = [v for v in spec.get("volumes", []) if v.get("csi", {}).get("driver") != "csi.example.com"]
    assert cases.merged(spec, {"volumes": spec["volumes"] or None}) == original["spec"]


class TestAnInjectionOfWhichAPartIsGone:
    @pytest.mark.parametrize("how", SPOILT)
    def test_is_taken_out(self, how: str) -> None:
        pod = injected()
        SPOILT[how](pod)
        is_taken_out(inject(pod), pod, cases.POD)

    def test_is_recognised_by_its_volumes_if_no_container_mounts_them_any_more(self) -> None:
        pod = injected()
        drop_all_mounts(pod)
        outcome = inject(pod)
        assert outcome.reason == "InjectionIncomplete"
        assert "volumes" not in cases.patched(pod, outcome.patch)["spec"]

    @pytest.mark.parametrize("volume", ["oneagent-bin", "oneagent-share", "oneagent-config"])
    def test_is_taken_out_without_csi_too(self, volume: str) -> None:
        pod = injected(facts={"csi": False})
        drop_volume(volume)(pod)
        is_taken_out(inject(pod, facts={"csi": False}), pod, cases.POD)

    def test_is_taken_out_if_a_read_only_view_has_no_place_for_what_agents_write(self) -> None:
        pod = injected(dynakube=READ_ONLY)
        drop_volume("oneagent-data")(pod)
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        outcome = inject(pod, dynakube=READ_ONLY)
        assert outcome.reason == "InjectionIncomplete"
        assert cases.patched(pod, outcome.patch)["spec"]["containers"][0] == cases.POD["spec"]["containers"][0]

    def test_is_taken_out_although_its_dynakube_is_gone(self) -> None:
        pod = injected()
        drop(pod)
        facts = dataclasses.replace(cases.facts({}), dynakube=None)
        is_taken_out(injection.inject(pod, facts, cases.SETTINGS), pod, cases.POD)

    @pytest.mark.parametrize("path", cases.CASES, ids=lambda path: path.stem)
    def test_leaves_the_pod_as_its_owner_wrote_it(self, path: Path) -> None:
        """But for an LD_PRELOAD that was empty, which is the same as none, or had our library before."""
        original, facts = cases.arguments(cases.load(path))
        outcome = injection.inject(original, facts, cases.SETTINGS)
        pod = cases.patched(original, outcome.patch)
        if not outcome.injected or path.stem in ("ld-preload-empty", "ld-preload-already-extended"):
            return
        drop(pod)
        after = cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)
        for spec in (after["spec"], original["spec"]):
            spec["initContainers"] = spec.get("initContainers", [])
        assert after["spec"] == original["spec"]
        evictable = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
        before = original["metadata"].get("annotations", {}).get(evictable)
        assert after["metadata"]["annotations"].get(evictable) == before

    def test_is_completed_if_only_an_application_s_container_lost_something(self) -> None:
        pod = whole = injected()
        pod = copy.deepcopy(pod)
        pod["spec"]["containers"][0] |= {"env": [], "volumeMounts": []}
        assert cases.patched(pod, inject(pod).patch) == whole


class TestASidecarThatAnotherWebhookMovesBeforeOurs:
    @pytest.mark.parametrize("csi", [True, False])
    @pytest.mark.parametrize("off", [True, False])
    def test_loses_what_it_would_have_to_wait_for(self, csi: bool, off: bool) -> None:
        sidecar = {**PROXY, "restartPolicy": "Always", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
        case: Manifest = {
            "pod": {"spec": {"initContainers": [sidecar], "volumes": [{"name": "tmp", "emptyDir": {}}]}},
            "facts": {"csi": csi},
        }
        pod = injected(**case)
        ours, proxy = pod["spec"]["initContainers"]
        assert values(proxy)["LD_PRELOAD"] == LIBRARY
        pod["spec"]["initContainers"] = [proxy, ours]
        flag = {"metadata": {"annotations": {"feature.dynatrace.com/webhook-reinvocation-policy": "false"}}}
        outcome = inject(pod, facts={"csi": csi}, dynakube=flag if off else {})
        after = cases.patched(pod, outcome.patch)
        assert outcome.injected
        assert after["spec"]["initContainers"] == [sidecar, ours]
        assert after["spec"]["containers"] == pod["spec"]["containers"]
        assert list(inject(after, facts={"csi": csi}).patch) == []


class TestAPodThatOnlyClaimsToBeDone:
    def test_keeps_volumes_of_its_own_that_have_our_names(self) -> None:
        pod = cases.merged(cases.POD, {"metadata": {"annotations": {pod_annotations.HANDLED: "4b5e57f6eb2f42b9"}}})
        pod["spec"]["volumes"] = [{"name": "oneagent-share", "emptyDir": {}}]
        outcome = inject(pod)
        assert outcome.reason == "ConflictingVolume"
        assert cases.patched(pod, outcome.patch)["spec"] == pod["spec"]

    def test_is_left_alone_if_its_install_path_was_spoilt(self) -> None:
        pod = injected()
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        next(v for v in ours(pod)["env"] if v["name"] == "INSTALLPATH")["value"] = "/lib"
        assert inject(pod) == InjectionResult(injected=True, reason="")
