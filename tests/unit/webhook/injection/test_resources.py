"""Resources of the init container in pods without CSI: nothing that the namespace or the pod's class would forbid."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneagent.common.kubernetes import quantities
from oneagent.webhook import injection
from oneagent.webhook.injection.inputs import InjectionResult
from tests.unit.webhook.injection import cases
from tests.unit.webhook.injection.cases import Manifest

CPU = [f"{thousandths}m" for thousandths in (100, 200, 500, 1000, 4000)]
MEMORY = ["64Mi", "100M", "128Mi", "1Gi", "3G"]


def answer(
    *resources: Manifest | None, agent: bool = False, chosen: Manifest | None = None, rules: Any = ()
) -> InjectionResult:
    """For a pod with containers of these resources, with the agent or with metadata alone, without CSI."""
    containers = [
        {"name": f"web-{number}", "image": "nginx:1", **({"resources": given} if given else {})}
        for number, given in enumerate(resources)
    ]
    monitoring = {"applicationMonitoring": {"initResources": chosen}}
    dynakube = {"spec": {"oneAgent": monitoring, "metadataEnrichment": {"enabled": True}}}
    annotations = {} if agent else {"oneagent.dynatrace.com/inject": "false"}
    pod, facts = cases.arguments(
        {
            "pod": {"metadata": {"annotations": annotations}, "spec": {"containers": containers}},
            "facts": {"csi": False},
            "dynakube": dynakube,
        }
    )
    return injection.inject(pod, dataclasses.replace(facts, limits=rules), cases.SETTINGS)


def given_to_ours(outcome: InjectionResult) -> dict[str, Any]:
    container = cases.patched(cases.POD, outcome.patch[-1:])["spec"]["initContainers"][0]
    found: dict[str, Any] = container.get("resources", {})
    return found


def amount(value: object) -> Any:
    found = quantities.parse(value)
    assert found is not None, value
    return found


@st.composite
def limited(draw: st.DrawFn) -> Manifest:
    """Resources as the API server takes them: with limits, and requests that are no more."""
    limits = {"cpu": draw(st.sampled_from(CPU)), "memory": draw(st.sampled_from(MEMORY))}
    requests = {
        "cpu": draw(st.sampled_from([value for value in CPU if amount(value) <= amount(limits["cpu"])])),
        "memory": draw(st.sampled_from([value for value in MEMORY if amount(value) <= amount(limits["memory"])])),
    }
    return {"requests": requests, "limits": limits}


@settings(max_examples=100, deadline=None)
@given(limited())
def test_a_limit_range_that_lets_the_application_in_lets_ours_in(resources: Manifest) -> None:
    """LimitRanger looks at each container alone: the least, the most, and how far a limit is above its request."""
    ours = given_to_ours(answer(resources))
    for kind in ("cpu", "memory"):
        least, most = amount(resources["requests"][kind]), amount(resources["limits"][kind])
        request, limit = amount(ours["requests"][kind]), amount(ours["limits"][kind])
        assert least <= request <= limit <= most
        assert limit / request <= most / least


@settings(max_examples=50, deadline=None)
@given(limited(), st.booleans())
def test_a_pod_needs_no_more_than_before(resources: Manifest, agent: bool) -> None:
    """Init containers end before the others start, so the scheduler and quotas count the greater of the two."""
    other = {"requests": {"cpu": "1", "memory": "64Mi"}}
    ours = given_to_ours(answer(resources, other, agent=agent))
    for kind in ("cpu", "memory"):
        total = sum(amount(given["requests"][kind]) for given in (resources, other))
        assert amount(ours["requests"][kind]) <= total


@pytest.mark.parametrize("agent", [True, False])
def test_a_pod_without_resources_has_none_afterwards(agent: bool) -> None:
    assert given_to_ours(answer(None, None, agent=agent)) == {}
    assert given_to_ours(answer(None, {"requests": {"cpu": "1"}}, agent=agent)) == {}


@pytest.mark.parametrize("agent", [True, False])
@pytest.mark.parametrize("chosen", [None, {"requests": {"cpu": "10m"}, "limits": {"memory": "1Gi"}}])
def test_a_guaranteed_pod_stays_guaranteed(agent: bool, chosen: Manifest | None) -> None:
    both = {"cpu": "10m", "memory": "20Mi"}
    ours = given_to_ours(answer({"requests": both, "limits": both}, {"limits": both}, agent=agent, chosen=chosen))
    assert ours["requests"] == ours["limits"]


def test_an_application_with_hardly_anything_leaves_ours_enough_to_come_to_an_end() -> None:
    tiny = {"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"cpu": "5m", "memory": "8Mi"}}
    assert given_to_ours(answer(tiny)) == {
        "requests": {"cpu": "30m", "memory": "30Mi"},
        "limits": {"cpu": "100m", "memory": "60Mi"},
    }


def test_a_request_without_limit_is_asked_for_too_and_no_limit_is_added() -> None:
    """A LimitRange with a least amount gives it to all containers that ask for nothing."""
    requests = {"requests": {"cpu": "2", "memory": "1Gi"}}
    assert given_to_ours(answer(requests)) == requests


def test_ours_has_what_a_later_container_has_where_the_first_has_hardly_anything() -> None:
    tiny = {"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"cpu": "5m", "memory": "8Mi"}}
    usual = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    assert given_to_ours(answer(tiny, usual)) == usual


def test_an_agent_of_the_pod_s_own_has_room_on_the_disk_where_that_is_limited() -> None:
    """Kubelet evicts a pod whose folders take more than its containers may together; ours counts if it is greater."""
    disk = {"ephemeral-storage": "1Gi"}
    resources = {"requests": disk, "limits": disk}
    assert given_to_ours(answer(None, agent=True)) == {}
    assert given_to_ours(answer(resources, resources, agent=False))["limits"]["ephemeral-storage"] == "1Gi"
    ours = given_to_ours(answer(resources, resources, agent=True))
    assert ours["requests"]["ephemeral-storage"] == "1Gi"
    assert amount(ours["limits"]["ephemeral-storage"]) == 4 * 1024**3
    ours = given_to_ours(answer(None, resources, agent=True))
    assert amount(ours["requests"]["ephemeral-storage"]) == 0
    assert amount(ours["limits"]["ephemeral-storage"]) == 3 * 1024**3


IMPOSSIBLE: list[Manifest] = [
    {"requests": {"cpu": "1"}, "limits": {"cpu": "500m"}},
    {"requests": {"memory": "-1"}},
    {"limits": {"memory": "a lot"}},
    {"limits": {"nvidia.com/gpu": 1}},
    {"requests": "none"},
    {"claims": [{"name": "gpu"}]},
]


@pytest.mark.parametrize("chosen", IMPOSSIBLE, ids=str)
def test_what_the_api_server_would_refuse_every_pod_for_is_not_used(chosen: Manifest) -> None:
    outcome = answer(None, chosen=chosen)
    assert given_to_ours(outcome) == given_to_ours(answer(None))
    assert "initResources" in outcome.warnings[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100m", "0.1"),
        ("1", "1"),
        (2, "2"),
        ("1.5", "1.5"),
        (".5", "0.5"),
        ("1.", "1"),
        ("1Ki", "1024"),
        ("1k", "1000"),
        ("2E", "2000000000000000000"),
        ("2e3", "2000"),
        ("1Ei", str(2**60)),
        ("+5n", "0.000000005"),
    ],
)
def test_quantities_are_those_of_kubernetes(text: object, value: str) -> None:
    assert str(f"{amount(text):f}").rstrip("0").rstrip(".") == value.rstrip("0").rstrip(".")


@pytest.mark.parametrize("text", ["", "1 Gi", "1gi", "-1", "1e999999999", "one", "1mm", True, None, 1.5, [], "9" * 999])
def test_what_is_no_quantity_is_none(text: object) -> None:
    assert quantities.parse(text) is None
