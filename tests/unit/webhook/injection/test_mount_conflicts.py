"""Containers with their own mounts near ours: no mount is made where the runtime could not make it."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common.agents import oneagent
from oneagent.common.injection import pod_annotations
from oneagent.webhook import injection
from oneagent.webhook.injection.inputs import InjectionResult
from tests.unit.webhook.injection import cases
from tests.unit.webhook.injection.cases import Manifest

CONFIG = {"name": "config", "configMap": {"name": "web"}}
BELOW = f"{oneagent.ENRICHMENT_PATH}/team.properties"


def container(name: str, *paths: str) -> Manifest:
    mounts = [{"name": "config", "mountPath": path, "subPath": "file"} for path in paths]
    return {"name": name, "image": "nginx:1", "volumeMounts": mounts}


def answer(*containers: Manifest, **case: Any) -> tuple[InjectionResult, Manifest]:
    pod = {"spec": {"containers": list(containers), "volumes": [CONFIG]}}
    original, facts = cases.arguments({"pod": pod, **case})
    outcome = injection.inject(original, facts, cases.SETTINGS)
    return outcome, cases.patched(original, outcome.patch)


def paths(pod: Manifest, index: int = 0) -> set[str]:
    return {mount["mountPath"] for mount in pod["spec"]["containers"][index]["volumeMounts"]}


@pytest.mark.parametrize("path", [BELOW, f"{oneagent.ENRICHMENT_PATH}/a/b", oneagent.ENRICHMENT_PATH])
def test_a_container_with_a_mount_in_the_directory_of_metadata_has_the_agent_without_it(path: str) -> None:
    outcome, pod = answer(container("web", path, "/etc/web"))
    assert outcome.injected
    assert paths(pod) == {path, "/etc/web", oneagent.INSTALL_PATH, oneagent.CONTAINER_CONF_PATH}
    assert pod_annotations.ENRICHMENT_INJECTED not in pod["metadata"]["annotations"]
    (notice,) = outcome.notices
    assert (notice.reason, notice.message) == ("MountLeftOut", outcome.warnings[0])
    assert f"web ({path})" in notice.message


def test_the_other_containers_have_the_directory() -> None:
    outcome, pod = answer(container("web", BELOW), container("proxy", "/etc/proxy"))
    assert [oneagent.ENRICHMENT_PATH in paths(pod, index) for index in (0, 1)] == [False, True]
    assert pod["metadata"]["annotations"][pod_annotations.ENRICHMENT_INJECTED] == "true"
    assert len(outcome.notices) == 1


def test_a_second_call_leaves_it_out_again_and_says_nothing_new() -> None:
    _, pod = answer(container("web", BELOW), container("proxy", "/etc/proxy"))
    again = injection.inject(pod, cases.facts({}), cases.SETTINGS)
    assert (list(again.patch), list(again.warnings), list(again.notices)) == ([], [], [])


def test_without_the_agent_such_a_container_gets_nothing() -> None:
    off = {"metadata": {"annotations": {pod_annotations.INJECT_AGENT: "false"}}}
    enriched = {"spec": {"metadataEnrichment": {"enabled": True}}}
    pod = cases.merged(off, {"spec": {"containers": [container("web", BELOW)], "volumes": [CONFIG]}})
    original, facts = cases.arguments({"pod": pod, "dynakube": enriched})
    assert injection.inject(original, facts, cases.SETTINGS).reason == "ConflictingMounts"


@pytest.mark.parametrize("path", [oneagent.CURL_OPTIONS_PATH, oneagent.CURL_OPTIONS_PATH.rpartition("/")[0]])
def test_a_container_with_its_own_options_for_connections_keeps_them(path: str) -> None:
    flag = {"metadata": {"annotations": {"feature.dynatrace.com/oneagent-initial-connect-retry-ms": "5000"}}}
    outcome, pod = answer(container("web", path), dynakube=flag)
    assert [notice.reason for notice in outcome.notices] == ["MountLeftOut"]
    assert paths(pod) == {path, oneagent.INSTALL_PATH, oneagent.CONTAINER_CONF_PATH, oneagent.ENRICHMENT_PATH}


@pytest.mark.parametrize("path", ["/var/lib/dynatrace", oneagent.CONTAINER_CONF_PATH.rpartition("/")[0]])
def test_a_container_that_could_not_have_its_own_configuration_is_not_injected(path: str) -> None:
    outcome, _ = answer(container("web", path))
    assert outcome.reason == "ConflictingMounts"
