"""What becomes of pods: by files, each a pod and all that is said and done about it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from oneagent.webhook import injection
from tests.unit.webhook.injection import cases


@pytest.mark.parametrize("csi", [True, False])
def test_an_ordinary_pod_gets_an_agent(csi: bool) -> None:
    outcome = injection.inject(*cases.arguments({"facts": {"csi": csi}}), cases.SETTINGS)
    assert outcome.injected
    assert list(outcome.patch) == (cases.ORDINARY if csi else cases.WITHOUT_CSI)


@pytest.mark.parametrize("path", cases.CASES, ids=lambda path: path.stem)
def test_a_pod_gets_what_its_case_says(path: Path) -> None:
    case = cases.load(path)
    pod, facts = cases.arguments(case)
    assert cases.said(injection.inject(pod, facts, cases.SETTINGS), csi=facts.csi) == case["outcome"]


@pytest.mark.parametrize("path", cases.CASES, ids=lambda path: path.stem)
def test_a_second_call_changes_nothing(path: Path) -> None:
    pod, facts = cases.arguments(cases.load(path))
    first = injection.inject(pod, facts, cases.SETTINGS)
    second = injection.inject(cases.patched(pod, first.patch), facts, cases.SETTINGS)
    assert (second.injected, second.reason, list(second.patch)) == (first.injected, first.reason, [])


@pytest.mark.parametrize("path", cases.CASES, ids=lambda path: path.stem)
def test_what_comes_in_stays_as_it_was(path: Path) -> None:
    pod, facts = cases.arguments(cases.load(path))
    before = copy.deepcopy((pod, facts))
    outcome = injection.inject(pod, facts, cases.SETTINGS)
    json.dumps(outcome.patch)
    cases.patched(pod, outcome.patch)
    assert (pod, facts) == before
