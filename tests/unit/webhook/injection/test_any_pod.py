"""Whatever pod comes: it is still all that its owner wrote, and a second call has nothing to add."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneagent.common.injection import contract, pod_annotations
from oneagent.webhook import injection
from oneagent.webhook.injection.inputs import PodContext
from tests.unit.webhook.injection import cases, kubelet
from tests.unit.webhook.injection.cases import Manifest

Strategy = st.SearchStrategy[Any]

LIBRARY = "/opt/dynatrace/oneagent-paas/agent/lib64/liboneagentproc.so"
STORED = {"there": "/lib/stored.so"}

NAMES: Strategy = st.sampled_from(["a", "b", "c", "web", "web-1", "web-2", "proxy", "install-oneagent"])
VARIABLE_NAMES = st.sampled_from(["A", "B", "LD_PRELOAD", "LD_PRELOAD", "DT_ORIGINAL_LD_PRELOAD", "DT_NETWORK_ZONE"])
VALUES = st.sampled_from(["", "x", "/lib/a.so", "/lib/a.so:/lib/b.so", "/lib/a.so /lib/b.so", "$(A)", "$$(A)", "a:"])
PATHS = st.sampled_from(
    ["/tmp", "/opt", "/opt/dynatrace/oneagent-paas", "/opt/dynatrace/oneagent-paas/log", "/var/lib/", "/data"]
)
VOLUME_NAMES = st.sampled_from(["tmp", "data", "v", "w", "x", "y", "oneagent-share", "oneagent-bin", "oneagent-data"])
SWITCHES = st.sampled_from(["true", "false", "maybe"])


REFERENCES: Strategy = st.builds(
    lambda kind, key, optional: {kind: {"name": "settings", "key": key, **({"optional": True} if optional else {})}},
    st.sampled_from(["configMapKeyRef", "secretKeyRef"]),
    st.sampled_from(["there", "missing"]),
    st.booleans(),
)
VARIABLES: Strategy = st.fixed_dictionaries(
    {"name": VARIABLE_NAMES}, optional={"value": VALUES}
) | st.fixed_dictionaries({"name": VARIABLE_NAMES, "valueFrom": REFERENCES})
MOUNTS: Strategy = st.fixed_dictionaries(
    {"name": VOLUME_NAMES, "mountPath": PATHS}, optional={"readOnly": st.booleans()}
)
QUANTITIES: Strategy = st.dictionaries(st.sampled_from(["cpu", "memory"]), st.sampled_from(["1", "2Gi"]))
IDENTITIES: Strategy = st.fixed_dictionaries(
    {}, optional={"runAsUser": st.sampled_from([0, 5]), "runAsGroup": st.just(5)}
)
CONTAINERS: Strategy = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "image": st.just("image:1"),
        "env": st.lists(VARIABLES, max_size=5),
        "volumeMounts": st.lists(MOUNTS, max_size=3, unique_by=lambda mount: mount["mountPath"]),
        "securityContext": IDENTITIES,
        "resources": st.fixed_dictionaries({}, optional={"limits": QUANTITIES, "requests": QUANTITIES}),
        "restartPolicy": st.just("Always"),
        "command": st.lists(st.sampled_from(["install-oneagent", "sh"]), max_size=1),
    },
)
VOLUMES: Strategy = st.fixed_dictionaries(
    {"name": VOLUME_NAMES}, optional={"emptyDir": st.just({}), "secret": st.just({"x": 1})}
)
ANNOTATIONS: Strategy = st.dictionaries(
    st.sampled_from(
        [
            pod_annotations.INJECT,
            pod_annotations.INJECT_AGENT,
            *pod_annotations.INJECT_ENRICHMENT,
            "container.inject.dynatrace.com/a",
        ]
    ),
    SWITCHES,
) | st.dictionaries(
    st.sampled_from([pod_annotations.AGENT_INJECTED, pod_annotations.REASON, pod_annotations.HANDLED, "team"]),
    st.text(max_size=5),
)
PODS: Strategy = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries({"name": st.just("web-0")}, optional={"annotations": ANNOTATIONS}),
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(CONTAINERS, min_size=1, max_size=3, unique_by=lambda c: c["name"])},
            optional={
                "initContainers": st.lists(CONTAINERS, max_size=2, unique_by=lambda c: c["name"]),
                "volumes": st.lists(VOLUMES, max_size=3, unique_by=lambda volume: volume["name"]),
                "hostNetwork": st.booleans(),
                "securityContext": IDENTITIES,
            },
        ),
    }
)


@st.composite
def facts(draw: st.DrawFn) -> PodContext:
    flags = st.sampled_from(["automatic-injection", "injection-readonly-volume", "label-version-detection"])
    given = draw(st.dictionaries(flags.map("feature.dynatrace.com/{}".format), SWITCHES, max_size=2))
    spec = {"metadataEnrichment": {"enabled": draw(st.booleans())}, "networkZone": draw(st.sampled_from([None, "eu"]))}
    dynakube = cases.merged(cases.DYNAKUBE, {"metadata": {"annotations": given}, "spec": spec})
    return cases.facts({"csi": draw(st.booleans()), "dynakube": dynakube})


def contained(before: Any, after: Any) -> bool:
    """Whether all that was there is there still, and in the same order."""
    if isinstance(before, dict) and isinstance(after, dict):
        return all(key in after and contained(value, after[key]) for key, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        left = iter(after)
        return all(any(contained(item, other) for other in left) for item in before)
    return bool(before == after)


def without_ours(pod: Manifest) -> Manifest:
    """A pod without what may be replaced: our annotations, and what is preloaded."""
    found = copy.deepcopy(pod)
    for key in (pod_annotations.AGENT_INJECTED, pod_annotations.REASON, pod_annotations.HANDLED):
        found["metadata"].get("annotations", {}).pop(key, None)
    for container in everything(found):
        if "env" in container:
            container["env"] = [v for v in container["env"] if v["name"] != "LD_PRELOAD"]
    return found


def everything(pod: Manifest) -> list[Manifest]:
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


@settings(max_examples=100, deadline=None)
@given(PODS, facts())
def test_nothing_of_the_pod_is_lost(pod: Manifest, facts: PodContext) -> None:
    outcome = injection.inject(pod, facts, cases.SETTINGS)
    after = cases.patched(pod, outcome.patch)
    assert contained(without_ours(pod), after)
    if not outcome.injected:
        assert after["spec"] == pod["spec"]


@settings(max_examples=100, deadline=None)
@given(PODS, facts())
def test_a_second_call_has_nothing_to_add(pod: Manifest, facts: PodContext) -> None:
    first = injection.inject(pod, facts, cases.SETTINGS)
    after = cases.patched(pod, first.patch)
    assert list(injection.inject(after, facts, cases.SETTINGS).patch) == []
    if first.injected:
        del after["metadata"]["annotations"][pod_annotations.HANDLED]
        again = cases.patched(after, injection.inject(after, facts, cases.SETTINGS).patch)
        assert again["spec"] == after["spec"], "nor has it if nobody says that the pod is done"


@settings(max_examples=100, deadline=None)
@given(PODS, facts())
def test_the_api_server_takes_it(pod: Manifest, facts: PodContext) -> None:
    after = cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)
    volumes = [volume["name"] for volume in after["spec"].get("volumes") or ()]
    assert len(volumes) == len(set(volumes))
    for container in everything(after):
        places = [mount["mountPath"].rstrip("/") for mount in container.get("volumeMounts") or ()]
        assert len(places) == len(set(places))
    names = [container["name"] for container in everything(after)]
    assert names.count(contract.INIT_CONTAINER) <= max(
        1, [container["name"] for container in everything(pod)].count(contract.INIT_CONTAINER)
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(VARIABLES, max_size=5))
def test_a_process_sees_what_it_saw_before_and_the_library_behind_what_was_preloaded(env: list[Manifest]) -> None:
    pod = cases.merged(cases.POD, {"spec": {"containers": [{"name": "web", "image": "nginx:1", "env": env}]}})
    after = cases.patched(pod, injection.inject(pod, cases.facts({}), cases.SETTINGS).patch)
    try:
        before = kubelet.environment(env, STORED)
    except kubelet.MissingError as error:
        with pytest.raises(kubelet.MissingError, match=str(error)):
            kubelet.environment(after["spec"]["containers"][0]["env"], STORED)
        return
    now = kubelet.environment(after["spec"]["containers"][0]["env"], STORED)
    preloaded, expected = now.pop("LD_PRELOAD"), before.pop("LD_PRELOAD", "")
    assert preloaded.endswith(LIBRARY)
    assert preloaded.removesuffix(LIBRARY).rstrip(": ") == expected.rstrip(": ")
    assert before.items() <= now.items()


JSON_VALUES: Strategy = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "env", "key"]), inner),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(PODS, facts(), JSON_VALUES, st.data())
def test_no_pod_however_odd_is_a_reason_to_fail(
    pod: Manifest, facts: PodContext, odd: Any, data: st.DataObject
) -> None:
    place: Any = pod
    while True:
        choices = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not choices:
            return
        key = data.draw(st.sampled_from(choices))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
        else:
            place[key] = odd
            break
    outcome = injection.inject(pod, facts, cases.SETTINGS)
    cases.patched(pod, outcome.patch)
