"""The second call, after another webhook has changed the pod: what is new gets what it lacks, nothing comes twice."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneagent.common.agents import oneagent
from oneagent.common.injection import pod_annotations, volume_attributes
from oneagent.webhook import injection
from oneagent.webhook.injection.inputs import InjectionResult
from tests.unit.webhook.injection import cases
from tests.unit.webhook.injection.cases import Manifest

LIBRARY = "/opt/dynatrace/oneagent-paas/agent/lib64/liboneagentproc.so"
PROXY = {"name": "proxy", "image": "proxy:1", "env": [{"name": "A", "value": "a"}]}
WITHOUT_CSI: Manifest = {"csi": False}
EARLIER: Manifest = yaml.safe_load((Path(__file__).parent / "earlier-release.yaml").read_text())
"""Pods that have the init container and a view."""


def inject(pod: Manifest, **case: Any) -> InjectionResult:
    return injection.inject(pod, cases.arguments(case)[1], cases.SETTINGS)


def injected(**case: Any) -> Manifest:
    pod, facts = cases.arguments(case)
    return cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)


def ours(pod: Manifest) -> Manifest:
    found: list[Manifest] = [c for c in pod["spec"]["initContainers"] if c["name"] == "install-oneagent"]
    assert len(found) == 1
    return found[0]


def attributes(pod: Manifest) -> dict[str, str]:
    """The attributes for the driver."""
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "oneagent-bin"]
    found: dict[str, str] = volume["csi"]["volumeAttributes"]
    return found


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
        own = "agent/conf/container_proxy.conf" if csi else "container_proxy.conf"
        assert own in {mount.get("subPath") for mount in proxy["volumeMounts"]}
        if csi:
            told = attributes(pod)
            assert (told["containers"], told["image.web"], told["image.proxy"]) == ("web,proxy", "nginx:1", "proxy:1")
        else:
            expected = {
                "CONTAINERS_COUNT": "2",
                "CONTAINER_1_NAME": "web",
                "CONTAINER_2_NAME": "proxy",
                "CONTAINER_2_IMAGE": "proxy:1",
            }
            assert values(ours(pod)).items() >= expected.items()
        assert list(inject(pod, facts={"csi": csi}).patch) == []

    def test_changes_no_attribute_but_those_about_containers(self) -> None:
        pod = injected()
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        changed = [operation["path"] for operation in inject(pod).patch if "/csi/" in operation["path"]]
        place = "/spec/volumes/0/csi/volumeAttributes"
        assert changed == [f"{place}/containers", f"{place}/image.proxy"]

    def test_is_named_in_a_further_part_if_the_names_are_too_long_for_one(self) -> None:
        names = [f"{'a' * 60}{number}" for number in range(4)]
        pod = injected(pod={"spec": {"containers": [{"name": name, "image": "i:1"} for name in names[:2]]}})
        pod["spec"]["containers"] += [{"name": name, "image": "i:1"} for name in names[2:]]
        pod = cases.patched(pod, inject(pod).patch)
        told = attributes(pod)
        assert volume_attributes.join(told, "containers") == ",".join(names)
        assert max(map(len, told.values())) <= volume_attributes.MAX_BYTES
        assert list(inject(pod).patch) == []

    def test_makes_room_for_its_name_where_that_needs_it(self) -> None:
        """Names are never left out, images are."""
        image = f"registry.example.com/{'a' * 90}:1"
        many = [{"name": f"{'a' * 50}{number}", "image": image} for number in range(10)]
        pod = injected(pod={"spec": {"containers": many}})
        assert f"image.{'a' * 50}9" in attributes(pod)
        new = [{"name": f"{'b' * 50}{number}", "image": image} for number in range(20)]
        pod["spec"]["containers"] += new
        outcome = inject(pod)
        told = attributes(cases.patched(pod, outcome.patch))
        assert volume_attributes.join(told, "containers") == ",".join(each["name"] for each in [*many, *new])
        assert sum(map(len, [*told, *told.values()])) <= volume_attributes.MAX_MAP_BYTES
        assert any("left out" in warning for warning in outcome.warnings)

    def test_gets_enrichment_only_where_the_pod_has_only_that(self) -> None:
        enriched = {"spec": {"metadataEnrichment": {"enabled": True}}}
        off = {"metadata": {"annotations": {"oneagent.dynatrace.com/inject": "false"}}}
        pod = injected(dynakube=enriched, pod=off)
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        pod = cases.patched(pod, inject(pod, dynakube=enriched).patch)
        assert values(pod["spec"]["containers"][1]) == {"A": "a"}
        assert [m["subPath"] for m in pod["spec"]["containers"][1]["volumeMounts"]] == ["agent/conf/enrichment"]
        assert "containers" not in attributes(pod)

    def test_is_counted_even_if_somebody_took_the_count_away(self) -> None:
        pod = injected(facts=WITHOUT_CSI)
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        ours(pod)["env"] = [v for v in ours(pod)["env"] if v["name"] != "CONTAINERS_COUNT"]
        pod = cases.patched(pod, inject(pod, facts=WITHOUT_CSI).patch)
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

    @pytest.mark.parametrize("first", [True, False])
    def test_has_the_agent_whenever_it_starts(self, first: bool) -> None:
        pod = injected(pod={"spec": {"initContainers": [{"name": "migrate", "image": "migrate:1"}]}})
        pod["spec"]["initContainers"].insert(0 if first else 1, {**copy.deepcopy(PROXY), "restartPolicy": "Always"})
        pod = cases.patched(pod, inject(pod).patch)
        (proxy,) = [each for each in pod["spec"]["initContainers"] if each["name"] == "proxy"]
        assert values(proxy)["LD_PRELOAD"] == LIBRARY
        assert attributes(pod)["containers"] == "web,proxy"

    @pytest.mark.parametrize("chosen", [True, False])
    def test_that_is_an_init_container_has_it_if_the_pod_says_so(self, chosen: bool) -> None:
        annotations = {pod_annotations.INJECT_INIT_CONTAINERS: str(chosen).lower()}
        pod = injected(pod={"metadata": {"annotations": annotations}})
        pod["spec"]["initContainers"] = [copy.deepcopy(PROXY)]
        pod = cases.patched(pod, inject(pod).patch)
        assert ("LD_PRELOAD" in values(pod["spec"]["initContainers"][0])) is chosen
        assert attributes(pod)["containers"] == ("web,proxy" if chosen else "web")

    def test_that_starts_before_our_init_container_waits_for_nothing_of_ours(self) -> None:
        pod = injected(facts=WITHOUT_CSI)
        pod["spec"]["initContainers"].insert(0, {**PROXY, "restartPolicy": "Always"})
        assert [operation["path"] for operation in inject(pod, facts=WITHOUT_CSI).patch] == [
            "/metadata/annotations/oneagent.dynatrace.com~1handled-containers"
        ]

    def test_that_starts_after_our_init_container_gets_the_agent(self) -> None:
        pod = injected(facts=WITHOUT_CSI)
        pod["spec"]["initContainers"].append({**copy.deepcopy(PROXY), "restartPolicy": "Always"})
        pod = cases.patched(pod, inject(pod, facts=WITHOUT_CSI).patch)
        assert values(pod["spec"]["initContainers"][1])["LD_PRELOAD"] == LIBRARY
        assert values(ours(pod))["CONTAINER_2_NAME"] == "proxy"

    def test_has_what_a_pod_with_a_user_namespace_has(self) -> None:
        pod = injected(pod={"spec": {"hostUsers": False}})
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        pod = cases.patched(pod, inject(pod).patch)
        web, proxy = pod["spec"]["containers"]
        conf = oneagent.CONTAINER_CONF_PATH
        assert [m for m in web["volumeMounts"] if m["mountPath"] != conf] == [
            m for m in proxy["volumeMounts"] if m["mountPath"] != conf
        ]

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

    @pytest.mark.parametrize("csi", [True, False])
    def test_stays_done_when_others_change_what_is_not_ours(self, csi: bool) -> None:
        pod = injected(facts={"csi": csi})
        if not csi:
            ours(pod)["image"] = "mirror.example.com/oneagent-csi:1"
        pod["spec"]["containers"].reverse()
        pod["spec"].setdefault("initContainers", []).insert(0, {"name": "first", "image": "first:1"})
        pod["metadata"]["labels"] = {"other": "webhook"}
        assert inject(pod, facts={"csi": csi}) == InjectionResult(injected=True, reason="")

    def test_stays_done_when_its_dynakube_is_gone_or_not_ready(self) -> None:
        pod = injected()
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        for dynakube in ({"spec": {"apiUrl": "x"}}, {"status": None}):
            assert inject(pod, dynakube=dynakube).injected


def drop_volume(name: str) -> Callable[[Manifest], object]:
    def spoil(pod: Manifest) -> None:
        pod["spec"]["volumes"] = [volume for volume in pod["spec"]["volumes"] if volume["name"] != name]

    return spoil


def drop_mounts(pod: Manifest) -> None:
    del pod["spec"]["containers"][0]["volumeMounts"]


def drop_agent(pod: Manifest) -> None:
    container = pod["spec"]["containers"][0]
    container["volumeMounts"] = [m for m in container["volumeMounts"] if m["mountPath"] != oneagent.INSTALL_PATH]


def drop_init_container(pod: Manifest) -> None:
    pod["spec"]["initContainers"] = [c for c in pod["spec"]["initContainers"] if c["name"] != "install-oneagent"]


SPOILT: dict[str, Callable[[Manifest], object]] = {
    "no volumes": lambda pod: pod["spec"].pop("volumes"),
    "no agent's volume": drop_volume("oneagent-bin"),
    "no agent": drop_agent,
    "no mounts": drop_mounts,
    "no attributes": lambda pod: pod["spec"]["volumes"][0]["csi"].pop("volumeAttributes"),
    "another volume of the name": lambda pod: pod["spec"]["volumes"][0].update(csi={"driver": "csi.example.com"}),
}
WITH_INIT_CONTAINER: dict[str, Callable[[Manifest], object]] = {
    "no init container": drop_init_container,
    "no volumes": lambda pod: pod["spec"].pop("volumes"),
    "no agent's volume": drop_volume("oneagent-bin"),
    "no volume for files": drop_volume("oneagent-share"),
    "no Secret": drop_volume("oneagent-config"),
    "nothing mounted by ours": lambda pod: ours(pod).pop("volumeMounts"),
    "another command": lambda pod: ours(pod).update(command=["/wrapper", "install-oneagent"]),
    "arguments": lambda pod: ours(pod).update(args=["--debug"]),
    "another name": lambda pod: ours(pod).update(name="wrapped"),
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

    @pytest.mark.parametrize("how", WITH_INIT_CONTAINER)
    def test_is_taken_out_without_csi_too(self, how: str) -> None:
        pod = injected(facts=WITHOUT_CSI)
        WITH_INIT_CONTAINER[how](pod)
        is_taken_out(inject(pod, facts=WITHOUT_CSI), pod, cases.POD)

    def test_is_taken_out_if_it_was_by_an_earlier_release(self) -> None:
        pod = copy.deepcopy(EARLIER["agent"])
        drop_init_container(pod)
        is_taken_out(inject(pod), pod, cases.POD)

    def test_is_recognised_by_its_volumes_if_no_container_mounts_them_any_more(self) -> None:
        for pod in (injected(), copy.deepcopy(EARLIER["agent"])):
            if "initContainers" in pod["spec"]:
                drop_init_container(pod)
            drop_mounts(pod)
            outcome = inject(pod)
            assert outcome.reason == "InjectionIncomplete"
            assert "volumes" not in cases.patched(pod, outcome.patch)["spec"]

    @pytest.mark.parametrize("case", [{"dynakube": READ_ONLY}, {"pod": {"spec": {"hostUsers": False}}}], ids=str)
    def test_is_taken_out_if_agents_have_no_place_to_write_to(self, case: Manifest) -> None:
        pod = injected(**case)
        drop_volume("oneagent-data")(pod)
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        outcome = inject(pod)
        assert outcome.reason == "InjectionIncomplete"
        assert cases.patched(pod, outcome.patch)["spec"]["containers"][0] == cases.POD["spec"]["containers"][0]

    def test_is_taken_out_although_its_dynakube_is_gone(self) -> None:
        pod = injected()
        drop_volume("oneagent-bin")(pod)
        facts = dataclasses.replace(cases.facts({}), dynakube=None)
        is_taken_out(injection.inject(pod, facts, cases.SETTINGS), pod, cases.POD)

    def test_leaves_a_volume_and_a_container_of_the_pod_s_own_that_have_a_name_of_ours(self) -> None:
        own = {"volumes": [{"name": "oneagent-share", "emptyDir": {}}]}
        pod = injected(pod={"spec": own})
        drop_volume("oneagent-bin")(pod)
        assert cases.patched(pod, inject(pod).patch)["spec"] == cases.merged(cases.POD, {"spec": own})["spec"]

    @pytest.mark.parametrize("path", cases.CASES, ids=lambda path: path.stem)
    def test_leaves_the_pod_as_its_owner_wrote_it(self, path: Path) -> None:
        """But for an LD_PRELOAD that was empty, which is the same as none, or had our library before."""
        original, facts = cases.arguments(cases.load(path))
        outcome = injection.inject(original, facts, cases.SETTINGS)
        pod = cases.patched(original, outcome.patch)
        if not outcome.injected or path.stem in ("ld-preload-empty", "ld-preload-already-extended"):
            return
        (drop_init_container if "install-oneagent" in str(pod["spec"]) else drop_volume("oneagent-bin"))(pod)
        after = cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)
        for spec in (after["spec"], original["spec"]):
            spec |= {key: spec.get(key, []) for key in ("initContainers", "volumes")}
        assert after["spec"] == original["spec"]
        evictable = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
        before = original["metadata"].get("annotations", {}).get(evictable)
        assert after["metadata"]["annotations"].get(evictable) == before

    def test_is_completed_if_only_one_of_its_containers_lost_something(self) -> None:
        two = {"spec": {"containers": [*cases.POD["spec"]["containers"], {"name": "log", "image": "log:1"}]}}
        for csi in (True, False):
            whole = injected(pod=two, facts={"csi": csi})
            pod = copy.deepcopy(whole)
            pod["spec"]["containers"][0] |= {"env": [], "volumeMounts": []}
            assert cases.patched(pod, inject(pod, facts={"csi": csi}).patch) == whole

    def test_is_completed_if_a_container_lost_its_configuration(self) -> None:
        pod = whole = injected()
        pod = copy.deepcopy(pod)
        del pod["spec"]["containers"][0]["volumeMounts"][1:]
        assert cases.patched(pod, inject(pod).patch) == whole


class TestAPodThatAnEarlierReleaseHasInjected:
    @pytest.mark.parametrize("kind", EARLIER)
    @pytest.mark.parametrize("noted", [True, False])
    def test_stays_as_it_is(self, kind: str, noted: bool) -> None:
        pod = copy.deepcopy(EARLIER[kind])
        if not noted:
            del pod["metadata"]["annotations"][pod_annotations.HANDLED]
        outcome = inject(pod)
        assert outcome.injected
        assert cases.patched(pod, outcome.patch) == EARLIER[kind]

    def test_gets_a_container_s_agent_in_its_own_way(self) -> None:
        pod = copy.deepcopy(EARLIER["agent"])
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        pod = cases.patched(pod, inject(pod).patch)
        assert values(ours(pod)).items() >= {"CONTAINERS_COUNT": "2", "CONTAINER_2_NAME": "proxy"}.items()
        assert attributes(pod) == {"mode": "app", "dynakube": "prod", "containers": "web,proxy"}
        proxy = pod["spec"]["containers"][1]
        assert {mount.get("subPath") for mount in proxy["volumeMounts"] if mount["name"] == "oneagent-share"} == {
            "container_proxy.conf",
            "enrichment",
        }
        assert list(inject(pod).patch) == []


class TestASidecarThatAnotherWebhookMovesBeforeOurs:
    @pytest.mark.parametrize("off", [True, False])
    def test_loses_what_it_would_have_to_wait_for(self, off: bool) -> None:
        sidecar = {**PROXY, "restartPolicy": "Always", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
        case: Manifest = {
            "pod": {"spec": {"initContainers": [sidecar], "volumes": [{"name": "tmp", "emptyDir": {}}]}},
            "facts": WITHOUT_CSI,
        }
        pod = injected(**case)
        ours, proxy = pod["spec"]["initContainers"]
        assert values(proxy)["LD_PRELOAD"] == LIBRARY
        pod["spec"]["initContainers"] = [proxy, ours]
        flag = {"metadata": {"annotations": {"feature.dynatrace.com/webhook-reinvocation-policy": "false"}}}
        outcome = inject(pod, facts=WITHOUT_CSI, dynakube=flag if off else {})
        after = cases.patched(pod, outcome.patch)
        assert outcome.injected
        assert after["spec"]["initContainers"] == [sidecar, ours]
        assert after["spec"]["containers"] == pod["spec"]["containers"]
        assert list(inject(after, facts=WITHOUT_CSI).patch) == []


class TestAPodThatOnlyClaimsToBeDone:
    def test_keeps_volumes_of_its_own_that_have_our_names(self) -> None:
        pod = cases.merged(cases.POD, {"metadata": {"annotations": {pod_annotations.HANDLED: "4b5e57f6eb2f42b9"}}})
        pod["spec"]["volumes"] = [{"name": "oneagent-bin", "emptyDir": {}}]
        outcome = inject(pod)
        assert outcome.reason == "ConflictingVolume"
        assert cases.patched(pod, outcome.patch)["spec"] == pod["spec"]

    def test_is_left_alone_if_its_install_path_was_spoilt(self) -> None:
        pod = injected()
        pod["spec"]["containers"].append(copy.deepcopy(PROXY))
        pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] = "/lib"
        assert inject(pod) == InjectionResult(injected=True, reason="")

    def test_keeps_a_volume_of_the_driver_that_its_owner_wrote(self) -> None:
        told = {"mode": "app", "dynakube": "prod", "containers": "web"}
        volume = {"name": "oneagent-bin", "csi": {"driver": "csi.oneagent.dynatrace.com", "volumeAttributes": told}}
        pod = cases.merged(cases.POD, {"spec": {"volumes": [volume]}})
        outcome = inject(pod)
        assert outcome.reason == "ConflictingVolume"
        assert cases.patched(pod, outcome.patch)["spec"] == pod["spec"]
