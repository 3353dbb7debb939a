"""The Secret with which a node pulls the init container's image, for pods that have this container."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from oneagent.common.injection import contract
from oneagent.webhook import injection
from tests.unit.webhook.injection import cases
from tests.unit.webhook.injection.cases import Manifest

SETTINGS = dataclasses.replace(cases.SETTINGS, image_pull_secret=contract.PULL_SECRET)
OURS = {"name": contract.PULL_SECRET}


def injected(*, csi: bool = False, named: Any = None, settings: injection.Settings = SETTINGS) -> Manifest:
    pod, facts = cases.arguments({"pod": {"spec": {"imagePullSecrets": named}}, "facts": {"csi": csi}})
    pod = cases.patched(pod, injection.inject(pod, facts, settings).patch)
    assert list(injection.inject(pod, facts, settings).patch) == []
    return pod


@pytest.mark.parametrize("named", [None, [], [{"name": "mine"}], [{}]])
def test_a_pod_names_it_behind_its_own(named: Any) -> None:
    assert injected(named=named)["spec"]["imagePullSecrets"] == [*(named or ()), OURS]


def test_it_is_named_once() -> None:
    assert injected(named=[OURS])["spec"]["imagePullSecrets"] == [OURS]


def test_with_csi_a_pod_needs_none() -> None:
    assert "imagePullSecrets" not in injected(csi=True)["spec"]


def test_without_any_for_the_image_a_pod_names_none() -> None:
    assert "imagePullSecrets" not in injected(settings=cases.SETTINGS)["spec"]


def test_it_is_taken_out_with_the_rest() -> None:
    pod = injected(named=[{"name": "mine"}])
    del pod["spec"]["initContainers"]
    _, facts = cases.arguments({"facts": {"csi": False}})
    after = cases.patched(pod, injection.inject(pod, facts, SETTINGS).patch)
    assert after["spec"] == {**cases.POD["spec"], "imagePullSecrets": [{"name": "mine"}]}
