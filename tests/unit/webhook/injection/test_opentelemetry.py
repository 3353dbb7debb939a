"""Pods of an OpenTelemetryInjection: the same patches, with another agent."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import injection as resource
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.server import request_validation
from oneagent.webhook import injection
from oneagent.webhook.injection.inputs import PodContext
from tests.unit.webhook.injection import cases

PATH = "/opt/opentelemetry/agents"
CONTAINERS = [{"name": "web", "image": "cart:1.4"}, {"name": "proxy", "image": "proxy"}]


def context(*, csi: bool = True, annotations: dict[str, str] | None = None, **spec: Any) -> PodContext:
    obj = {
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": "shop", "namespace": "dynatrace", "annotations": annotations or {}},
        "spec": spec or {"package": "file:///data/otel.zip"},
    }
    return dataclasses.replace(
        cases.facts({"csi": csi, "namespace_labels": {"dynakube.internal.dynatrace.com/instance": "otelinj.shop"}}),
        dynakube=resource.normalize(obj),
    )


def pod(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = cases.merged(cases.POD, {"spec": {"containers": CONTAINERS, **spec}})
    return found


def injected(given: dict[str, Any], facts: PodContext) -> dict[str, Any]:
    outcome = injection.inject(given, facts, cases.SETTINGS)
    assert outcome.injected, outcome
    return cases.patched(given, outcome.patch)


def test_its_containers_get_the_library_and_their_own_file() -> None:
    found = injected(pod(), context())
    for container in found["spec"]["containers"]:
        assert container["env"] == [{"name": "LD_PRELOAD", "value": f"{PATH}/agent/lib64/libotelinject.so"}]
        assert container["volumeMounts"] == [
            {"name": "oneagent-bin", "mountPath": PATH},
            {
                "name": "oneagent-bin",
                "mountPath": f"{PATH}/agent/conf/container.env",
                "subPath": f"agent/conf/container_{container['name']}.env",
                "readOnly": True,
            },
        ]
    (volume,) = found["spec"]["volumes"]
    assert volume["csi"]["volumeAttributes"] == {
        "mode": "app",
        "dynakube": "shop",
        "agent": "opentelemetry",
        "basePodName": "web-5d4f8c7b9d",
        "workloadKind": "Deployment",
        "workloadName": "web",
        "clusterId": "c0ffee",
        "containers": "web,proxy",
        "image.web": "cart:1.4",
        "image.proxy": "proxy",
    }


def test_no_secret_and_no_setting_is_in_the_pod() -> None:
    exporter = {"endpoint": "http://collector:4318", "headersSecret": "headers"}
    facts = context(package="file:///a.zip", exporter=exporter, env=[{"name": "OTEL_LOGS_EXPORTER", "value": "none"}])
    assert not any(text in str(injected(pod(), facts)) for text in ("collector", "headers", "OTEL_"))


@pytest.mark.parametrize("spec", [{}, {"hostUsers": False}])
def test_the_driver_writes_all_that_containers_mount(spec: dict[str, Any]) -> None:
    found = injected(pod(**spec), context())
    (csi,) = [volume["csi"] for volume in found["spec"]["volumes"]]
    names = {request_validation.POD_NAME: "web-0", request_validation.POD_NAMESPACE: "shop"}
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="csi-1",
        target_path="/pods/1/mount",
        volume_capability=csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume()),
        volume_context={**csi["volumeAttributes"], **names},
    )
    published = request_validation.publish(request, "/pods")
    assert published.dynakube == "otelinj.shop"
    assert published.files.profile is opentelemetry.PROFILE
    written = {f"agent/conf/{path}" for path, _ in published.files.render()}
    written |= {"bin", *opentelemetry.PROFILE.config_files} if spec else set()
    mounts = [mount for container in found["spec"]["containers"] for mount in container["volumeMounts"]]
    assert {mount["subPath"] for mount in mounts if "subPath" in mount} <= written
    # Over the read-only agent: a layer above it, which other views have, is not possible here.
    over = {mount["mountPath"] for mount in mounts if mount.get("subPath") in opentelemetry.PROFILE.config_files}
    assert over == ({f"{PATH}/{path}" for path in opentelemetry.PROFILE.config_files} if spec else set())
    assert all(mount.get("readOnly") for mount in mounts if mount["mountPath"] in over)


@pytest.mark.parametrize("spec", [{}, {"hostUsers": False}])
@pytest.mark.parametrize("read_only", ["true", "false"])
def test_a_second_call_changes_nothing_and_extends_to_a_new_container(spec: dict[str, Any], read_only: str) -> None:
    facts = context(annotations={"feature.dynatrace.com/injection-readonly-volume": read_only})
    found = injected(pod(**spec), facts)
    assert [volume["name"] for volume in found["spec"]["volumes"]] == ["oneagent-bin"]
    second = injection.inject(found, facts, cases.SETTINGS)
    assert (second.injected, list(second.patch)) == (True, [])
    added = copy.deepcopy(found)
    added["spec"]["containers"].append({"name": "late", "image": "late:1"})
    extended = injected(added, facts)
    late = extended["spec"]["containers"][-1]
    assert late["env"][0]["value"].endswith("libotelinject.so")
    assert late["volumeMounts"][-1]["subPath"] == "agent/conf/container_late.env"
    attributes = extended["spec"]["volumes"][0]["csi"]["volumeAttributes"]
    assert attributes["containers"] == "web,proxy,late"


def test_what_another_webhook_has_left_of_it_is_taken_out() -> None:
    found = injected(pod(), context())
    del found["spec"]["volumes"]
    outcome = injection.inject(found, context(), cases.SETTINGS)
    left = cases.patched(found, outcome.patch)
    assert outcome.reason == "InjectionIncomplete"
    assert left["spec"]["containers"] == CONTAINERS


def test_another_install_path_is_that_of_the_container_s_file_too() -> None:
    given = pod()
    given["metadata"]["annotations"]["oneagent.dynatrace.com/install-path"] = "/opt/own/otel"
    mounts = injected(given, context())["spec"]["containers"][0]["volumeMounts"]
    assert [mount["mountPath"] for mount in mounts] == ["/opt/own/otel", "/opt/own/otel/agent/conf/container.env"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (context(csi=False), "DriverUnavailable"),
        (context(image={"reference": "registry.example/otel:1"}), "DynaKubeNotReady"),
    ],
)
def test_a_pod_that_could_not_have_the_agent_is_left_as_it_is(facts: PodContext, reason: str) -> None:
    outcome = injection.inject(pod(), facts, cases.SETTINGS)
    assert (outcome.injected, outcome.reason) == (False, reason)


def test_the_operator_s_digest_makes_an_image_ready() -> None:
    facts = context(image={"reference": "registry.example/otel:1"})
    assert facts.dynakube is not None
    digest = f"registry.example/otel:1@sha256:{'a' * 64}"
    decided = {**facts.dynakube, "status": {"codeModules": {"imageID": digest}}}
    injected(pod(), dataclasses.replace(facts, dynakube=decided))


@pytest.mark.parametrize(
    ("spec", "warning"),
    [
        ({"image": {"reference": "a/b:1"}}, "the OpenTelemetryInjection has no version for pods yet"),
        (None, "the OpenTelemetryInjection in its namespace's label does not exist; create the OpenTelemetryInj"),
        (
            {"package": "file:///a.zip", "languages": ["perl"]},
            "the OpenTelemetryInjection is invalid: spec.languages is 'perl'",
        ),
    ],
)
def test_a_reason_names_the_kind_of_object(spec: dict[str, Any] | None, warning: str) -> None:
    obj = {"kind": "OpenTelemetryInjection", "metadata": {"name": "shop", "namespace": "dynatrace"}, "spec": spec}
    found = resource.normalize_stored(obj) if spec is not None else None
    outcome = injection.inject(pod(), dataclasses.replace(context(), dynakube=found), cases.SETTINGS)
    assert not outcome.injected
    assert f"is not injected: {warning}" in outcome.warnings[0]
