"""The init container where a LimitRange or a quota has a say: the pod is admitted if it is without us."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from oneagent.common.kubernetes import quantities
from oneagent.webhook import injection
from oneagent.webhook.injection import namespace_limits
from tests.unit.webhook.injection import cases
from tests.unit.webhook.injection.cases import Manifest
from tests.unit.webhook.injection.test_resources import answer, given_to_ours

GIB = 1 << 30


def raw(obj: Mapping[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(obj).encode())


def limit_range(kind: str = "Container", **bounds: Manifest) -> namespace_limits.Rules:
    return namespace_limits.read_limit_range(raw({"spec": {"limits": [{"type": kind, **bounds}]}}))


def quota(*hard: str, **spec: Any) -> namespace_limits.Rules:
    return namespace_limits.read_quota(raw({"spec": {"hard": dict.fromkeys(hard, "1"), **spec}}))


def both(cpu: str, memory: str, **disk: str) -> Manifest:
    return {"requests": {"cpu": cpu, "memory": memory, **disk}, "limits": {"cpu": cpu, "memory": memory, **disk}}


def test_a_small_maximum_is_kept_without_the_agent() -> None:
    small = both("50m", "32Mi")
    assert given_to_ours(answer(small, rules=(limit_range(max=small["limits"]),))) == small


def test_a_small_maximum_is_kept_with_the_agent() -> None:
    small = both("200m", "128Mi")
    assert given_to_ours(answer(small, agent=True, rules=(limit_range(max=small["limits"]),))) == small


@pytest.mark.parametrize("agent", [True, False])
@pytest.mark.parametrize("ratio", ["1", "2", "4"])
def test_a_ratio_is_kept(agent: bool, ratio: str) -> None:
    resources = {"requests": {"cpu": "50m", "memory": "100Mi"}, "limits": {"cpu": "100m", "memory": "100Mi"}}
    rules = (limit_range(maxLimitRequestRatio={"cpu": ratio, "memory": ratio}),)
    assert given_to_ours(answer(resources, agent=agent, rules=rules)) == resources


def test_a_maximum_of_the_disk_is_kept_and_an_agent_has_room_in_it() -> None:
    ten = both("1", "1Gi", **{"ephemeral-storage": "10Gi"})
    rules = (limit_range(max={"ephemeral-storage": "10Gi"}),)
    assert given_to_ours(answer(ten, agent=True, rules=rules)) == ten


def test_a_maximum_of_the_disk_without_room_for_an_agent_is_a_reason_to_leave_the_pod_alone() -> None:
    one = both("1", "1Gi", **{"ephemeral-storage": "1Gi"})
    rules = (limit_range(max={"ephemeral-storage": "1Gi"}),)
    outcome = answer(one, agent=True, rules=rules)
    assert (outcome.injected, outcome.reason) == (False, "LimitsTooLow")
    assert "ephemeral-storage" in outcome.warnings[0]
    assert given_to_ours(answer(one, rules=rules)) == one


TINY = {"requests": {"cpu": "4m", "memory": "4Mi"}, "limits": {"cpu": "5m", "memory": "8Mi"}}
REFUSING = {
    "maximum": limit_range(max={"memory": "32Mi"}),
    "ratio": limit_range(maxLimitRequestRatio={"cpu": "2"}),
    "maximum of pods": limit_range("Pod", max={"memory": "10Mi"}),
    "quota": quota("requests.memory", "limits.memory"),
    "quota by a short name": quota("cpu"),
    "quota of limits": quota("limits.cpu"),
}


@pytest.mark.parametrize("agent", [True, False])
@pytest.mark.parametrize("which", REFUSING)
def test_a_pod_whose_namespace_admits_nothing_that_is_enough_starts_without_its_agent(which: str, agent: bool) -> None:
    outcome = answer(TINY, agent=agent, rules=(REFUSING[which],))
    assert (outcome.injected, outcome.reason) == (False, "LimitsTooLow")
    (notice,) = outcome.notices
    assert (notice.reason, notice.message) == ("LimitsTooLow", outcome.warnings[0])


def test_a_rule_about_something_else_changes_nothing() -> None:
    others = (quota("pods", "count/secrets", "requests.nvidia.com/gpu"), limit_range("PersistentVolumeClaim", max={}))
    assert given_to_ours(answer(TINY, rules=others)) == given_to_ours(answer(TINY))


@pytest.mark.parametrize("agent", [True, False])
def test_while_the_rules_are_not_known_ours_has_what_a_container_has_or_the_pod_is_left_alone(agent: bool) -> None:
    small = both("200m", "128Mi")
    assert given_to_ours(answer(small, agent=agent, rules=None)) == small
    assert given_to_ours(answer(None, agent=agent, rules=None)) == {}
    assert answer(TINY, agent=agent, rules=None).reason == "LimitsTooLow"


CHOSEN: Manifest = {"requests": {"cpu": "30m", "memory": "30Mi"}, "limits": {"cpu": "500m", "memory": "200Mi"}}
USUAL: Manifest = {"requests": {"cpu": "100m", "memory": "50Mi"}, "limits": {"cpu": "200m", "memory": "100Mi"}}


def test_a_pod_with_defaults_of_a_limit_range_that_is_not_known_yet_gets_no_more_than_it_has() -> None:
    annotated = {"metadata": {"annotations": {"kubernetes.io/limit-ranger": "LimitRanger plugin set: cpu"}}}
    containers = [{"name": "web", "image": "nginx:1", "resources": TINY}]
    pod, facts = cases.arguments({"pod": {**annotated, "spec": {"containers": containers}}, "facts": {"csi": False}})
    assert injection.inject(pod, facts, cases.SETTINGS).reason == "LimitsTooLow"


class TestInitResourcesOfTheDynaKube:
    def test_are_used_where_the_rules_admit_them(self) -> None:
        rules = (limit_range(max={"memory": "1Gi"}, default={"memory": "1Gi"}), quota("limits.memory"))
        usual = {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Gi"}}
        assert given_to_ours(answer(usual, chosen=CHOSEN, rules=rules)) == CHOSEN

    @pytest.mark.parametrize(
        "rule",
        [
            limit_range(max={"memory": "100Mi"}),
            limit_range(min={"memory": "50Mi"}),
            limit_range(maxLimitRequestRatio={"cpu": "2"}),
            limit_range("Pod", max={"cpu": "200m"}),
            quota("limits.cpu"),
        ],
        ids=["maximum", "minimum", "ratio", "maximum of pods", "quota"],
    )
    def test_give_way_to_the_rules_otherwise(self, rule: namespace_limits.Rules) -> None:
        assert given_to_ours(answer(USUAL, chosen=CHOSEN, rules=(rule,))) == USUAL

    def test_have_the_defaults_of_the_namespace_for_what_they_do_not_name(self) -> None:
        rules = (limit_range(max={"memory": "1Gi"}, default={"memory": "1Gi"}, defaultRequest={"memory": "1Gi"}),)
        only_cpu = {"limits": {"cpu": "100m"}}
        assert given_to_ours(answer(USUAL, chosen=only_cpu, rules=rules)) == only_cpu
        too_much = {"requests": {"memory": "2Gi"}}
        assert given_to_ours(answer(USUAL, chosen=too_much, rules=rules)) == USUAL

    def test_do_not_name_less_than_a_quota_demands(self) -> None:
        only_cpu = {"limits": {"cpu": "100m"}}
        assert given_to_ours(answer(USUAL, chosen=only_cpu, rules=(quota("limits.memory"),))) == USUAL

    @pytest.mark.parametrize(
        "spec",
        [
            {"scopes": ["BestEffort"]},
            {"scopeSelector": {"matchExpressions": [{"scopeName": "NotBestEffort", "operator": "Exists"}]}},
        ],
        ids=["scope", "selector"],
    )
    def test_leave_a_pod_without_resources_in_its_class_where_a_quota_looks_at_it(self, spec: Manifest) -> None:
        assert given_to_ours(answer(None, chosen=CHOSEN, rules=(quota("pods", **spec),))) == {}
        assert given_to_ours(answer(USUAL, chosen=CHOSEN, rules=(quota("pods", **spec),))) == CHOSEN


def test_amounts_are_those_of_the_api_server() -> None:
    found = namespace_limits.amounts({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})
    assert found == {
        ("limits", "cpu"): quantities.parse("1"),
        ("limits", "memory"): GIB,
        ("requests", "cpu"): quantities.parse("0.5"),
        ("requests", "memory"): GIB,
    }


@pytest.mark.parametrize("which", REFUSING)
def test_with_csi_no_rule_matters(which: str) -> None:
    """Nothing is added that would use anything."""
    containers = [{"name": "web", "image": "nginx:1", "resources": TINY}]
    pod, facts = cases.arguments({"pod": {"spec": {"containers": containers}}})
    outcome = injection.inject(pod, dataclasses.replace(facts, limits=(REFUSING[which],)), cases.SETTINGS)
    after = cases.patched(pod, outcome.patch)
    assert (outcome.injected, outcome.warnings) == (True, ())
    assert "initContainers" not in after["spec"]
    assert after["spec"]["containers"][0]["resources"] == TINY
