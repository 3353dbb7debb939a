"""Rules about host agents: errors, and warnings about what has no effect."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import FLAG, UNKNOWN, errors, kube, mode, only

HOST_MODES = ("classicFullStack", "cloudNativeFullStack", "hostMonitoring")


def warnings(new: Manifest, cluster: validation.ClusterState = UNKNOWN) -> tuple[str, ...]:
    result = validation.validate(new, None, cluster)
    assert result.errors == ()
    return result.warnings


def variable(name: str, **value: Any) -> Manifest:
    return {"name": name, **value}


@pytest.mark.parametrize("argument", ["--set-host-id-source=auto", "--set-host-id-source=k8s-node-name"])
@pytest.mark.parametrize("name", HOST_MODES)
def test_applications_find_their_host_by_the_nodes_name(name: str, argument: str) -> None:
    found = errors(kube(mode(name, args=["--set-host-tag=a", argument])))
    if name != "cloudNativeFullStack":
        assert found == ()
    else:
        assert only(found).startswith("spec.oneAgent.cloudNativeFullStack.args has --set-host-id-source, which the")


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--set-host-tag=team=a", "--set-host-tag=team=b", "--set-host-tag=team"], ""),
        (["--set-host-tag=secret", "--set-host-property=secret", "--set-host-tag=secret"], "args[2]"),
        (["--set-host-tag=secret", "--set-host-tag= secret"], "args[1]"),
    ],
)
@pytest.mark.parametrize("name", HOST_MODES)
def test_the_same_tag_is_given_once(name: str, arguments: list[str], place: str) -> None:
    found = errors(kube(mode(name, args=arguments)))
    if not place:
        assert found == ()
        return
    sentence = only(found)
    path = f"spec.oneAgent.{name}"
    assert sentence.startswith(f"{path}.{place} has the same --set-host-tag as {path}.args[0] (not shown).")
    assert "secret" not in sentence


@pytest.mark.parametrize(
    ("name", "value", "readonly", "refused"),
    [
        ("hostMonitoring", {"value": "false"}, "", True),
        ("cloudNativeFullStack", {"value": "false"}, "true", True),
        ("cloudNativeFullStack", {"value": "0"}, "", True),
        ("cloudNativeFullStack", {}, "", True),
        ("cloudNativeFullStack", {"value": "true"}, "", False),
        ("cloudNativeFullStack", {"valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}, "", False),
        ("cloudNativeFullStack", {"value": "false"}, "false", False),
        ("classicFullStack", {"value": "false"}, "", False),
    ],
)
def test_an_agent_with_a_read_only_host_writes_to_its_volume(
    name: str, value: Manifest, readonly: str, refused: bool
) -> None:
    section = mode(name, env=[variable("ONEAGENT_ENABLE_VOLUME_STORAGE", **value)])
    found = errors(kube(section, **({"oneagent_readonly_host_fs": readonly} if readonly else {})))
    if refused:
        assert f"spec.oneAgent.{name}.env switches ONEAGENT_ENABLE_VOLUME_STORAGE off" in only(found)
    else:
        assert found == ()


@pytest.mark.parametrize(
    ("update", "fault"),
    [
        ({"maxUnavailable": 15}, ""),
        ({"maxUnavailable": "10%"}, ""),
        ({"maxSurge": 1}, ""),
        ({"maxUnavailable": 0, "maxSurge": "5%"}, ""),
        ({}, ""),
        ({"maxUnavailable": 0}, "rollingUpdate.maxUnavailable is '0': must be at least 1, or set maxSurge"),
        ({"maxUnavailable": "many"}, "rollingUpdate.maxUnavailable is 'many': must be a number"),
        ({"maxUnavailable": 1, "maxSurge": 1}, "rollingUpdate.maxUnavailable is '1': must be 0 together with maxSurge"),
    ],
)
@pytest.mark.parametrize("name", HOST_MODES)
def test_a_rolling_update_is_one_that_the_api_server_takes(name: str, update: Manifest, fault: str) -> None:
    found = errors(kube(mode(name, rollingUpdate=update)))
    assert f"spec.oneAgent.{name}.{fault}" in only(found) if fault else found == ()


def test_a_flag_that_a_field_replaces_is_told() -> None:
    updated = mode("hostMonitoring", rollingUpdate={"maxUnavailable": 15})
    assert warnings(kube(updated, oneagent_max_unavailable="3")) == (
        f"{FLAG.format('oneagent-max-unavailable')} has no effect: spec.oneAgent.hostMonitoring.rollingUpdate comes "
        "before it.",
    )
    assert warnings(kube(mode("hostMonitoring", rollingUpdate={}), oneagent_max_unavailable="3")) == ()
    assert warnings(kube(updated)) == ()


@pytest.mark.parametrize("name", HOST_MODES)
def test_a_host_group_has_a_field(name: str) -> None:
    path, group = f"spec.oneAgent.{name}.args", {name: {"args": ["--set-host-group=a"]}}
    instead = f"{path} has --set-host-group: use spec.oneAgent.hostGroup instead."
    assert warnings(kube({"oneAgent": group})) == (instead,)
    assert warnings(kube({"oneAgent": {**group, "hostGroup": "b"}})) == (
        f"{path} has --set-host-group, which has no effect: spec.oneAgent.hostGroup comes before it.",
    )
    assert warnings(kube({"oneAgent": {name: {}, "hostGroup": "b"}})) == ()


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["ONEAGENT_INSTALLER_TOKEN"], "ONEAGENT_INSTALLER_TOKEN"),
        (
            ["ONEAGENT_INSTALLER_TOKEN", "ONEAGENT_INSTALLER_SCRIPT_URL"],
            "ONEAGENT_INSTALLER_SCRIPT_URL and ONEAGENT_INSTALLER_TOKEN",
        ),
        (["ONEAGENT_INSTALLER_OTHER"], ""),
    ],
)
def test_variables_of_an_installer_are_told(names: list[str], listed: str) -> None:
    found = warnings(kube(mode("classicFullStack", env=[variable(name, value="secret") for name in names])))
    assert "secret" not in "".join(found)
    if listed:
        assert only(found).startswith(f"spec.oneAgent.classicFullStack.env has {listed}, which only images read")
    else:
        assert found == ()


@pytest.mark.parametrize("name", [*HOST_MODES, "applicationMonitoring"])
def test_the_field_version_is_deprecated(name: str) -> None:
    sentence = only(warnings(kube(mode(name, version="1.277.0.20230914-094321"))))
    field = "codeModulesImage" if name == "applicationMonitoring" else "image"
    assert sentence.startswith(f"spec.oneAgent.{name}.version is deprecated: ")
    assert f"Use {field}" in sentence
