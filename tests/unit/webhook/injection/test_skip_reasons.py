"""Whom nothing is done to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneagent.webhook import injection
from oneagent.webhook.injection.inputs import InjectionResult
from tests.unit.webhook.injection import cases
from tests.unit.webhook.injection.cases import Manifest

GROUPS = yaml.load((Path(__file__).parent / "skips.yaml").read_text(), yaml.CSafeLoader)


def told(outcome: InjectionResult) -> dict[str, Any]:
    return {str(operation["path"]).rpartition("/")[2]: operation.get("value") for operation in outcome.patch}


@pytest.mark.parametrize("case", GROUPS["annotated"], ids=lambda case: case["reason"])
def test_a_pod_is_told_why_it_is_left_as_it_is(case: Manifest) -> None:
    outcome = injection.inject(*cases.arguments(case), cases.SETTINGS)
    assert (outcome.injected, outcome.reason) == (False, case["reason"])
    assert told(outcome) == {
        "oneagent.dynatrace.com~1injected": "false",
        "oneagent.dynatrace.com~1reason": case["reason"],
        "dynakube.dynatrace.com~1injected": "false",
    }
    assert (outcome.warnings, outcome.notices) == ([], ()), "somebody wanted it so: that is no reason for alarm"


@pytest.mark.parametrize("case", GROUPS["without a trace"], ids=lambda case: case["reason"])
def test_a_pod_that_is_none_of_ours_is_not_touched(case: Manifest) -> None:
    assert injection.inject(*cases.arguments(case), cases.SETTINGS) == InjectionResult(False, case["reason"])


@pytest.mark.parametrize("case", GROUPS["injected all the same"], ids=str)
def test_a_pod_that_only_looks_like_one_of_those_is_injected(case: Manifest) -> None:
    assert injection.inject(*cases.arguments(case), cases.SETTINGS).injected


def test_a_namespace_whose_dynakube_is_gone_is_told_of() -> None:
    facts = dataclasses.replace(cases.facts({}), dynakube=None)
    outcome = injection.inject(cases.POD, facts, cases.SETTINGS)
    assert (outcome.reason, [notice.reason for notice in outcome.notices]) == ("DynaKubeMissing", ["DynaKubeMissing"])
    assert len(outcome.warnings) == 1


def test_a_dynakube_counts_as_it_is_now() -> None:
    reasons = []
    for version, status in ((1, None), (2, cases.DYNAKUBE["status"]), (1, None)):
        metadata = {"uid": "c0ffee", "resourceVersion": str(version)}
        facts = cases.facts({"dynakube": {"metadata": metadata, "status": status}})
        reasons.append(injection.inject(cases.POD, facts, cases.SETTINGS).reason)
    assert reasons == ["DynaKubeNotReady", "", "DynaKubeNotReady"]


PATHS = {
    "/opt/a": True,
    "/opt/a.b_c-d@1/e": True,
    "/var/lib/agent": True,
    "/agent": False,
    "opt/a": False,
    "/opt/../a": False,
    "//opt/a": False,
    "/opt//a": False,
    "/opt/a b": False,
    "/opt/a:b": False,
    "/opt/$(HOME)": False,
    "/proc/1": False,
    "/dev/shm": False,
    "/var/lib/dynatrace/enrichment": False,
    "/var/lib/dynatrace": False,
    "/var/lib": False,
}


@pytest.mark.parametrize("path", PATHS)
def test_an_install_path_is_used_only_if_nothing_can_break_by_it(path: str) -> None:
    pod = cases.merged(cases.POD, {"metadata": {"annotations": {"oneagent.dynatrace.com/install-path": path}}})
    outcome = injection.inject(pod, cases.facts({}), cases.SETTINGS)
    assert outcome.reason == ("" if PATHS[path] else "InvalidInstallPath")


@pytest.mark.parametrize("pod", [{}, {"spec": None}, {"metadata": {}, "spec": {"containers": [{}]}}, {"spec": []}])
def test_what_is_no_pod_is_left_as_it_is(pod: Manifest) -> None:
    outcome = injection.inject(pod, cases.facts({}), cases.SETTINGS)
    assert (outcome.injected, outcome.reason, list(outcome.patch)) == (False, "InvalidPod", [])
