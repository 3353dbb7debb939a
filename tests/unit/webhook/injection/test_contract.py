"""The node driver and the init container understand the webhook's patches: every case, by the real readers."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common.injection import volume_attributes
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.server import request_validation
from oneagent.sidecars.init_container import settings
from oneagent.webhook import injection
from tests.unit.webhook.injection import cases, kubelet
from tests.unit.webhook.injection.cases import Manifest

INJECTED = [path for path in cases.CASES if cases.load(path)["outcome"]["injected"]]


def pods(*, csi: bool) -> list[Any]:
    """Return the injected pods of all cases with or without CSI."""
    found = []
    for path in INJECTED:
        pod, facts = cases.arguments(cases.load(path))
        pod = cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)
        if any("csi" in volume for volume in pod["spec"]["volumes"]) is csi:
            found.append(pytest.param(pod, id=path.stem))
    return found


def sub_paths(pod: Manifest) -> set[str]:
    containers = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    mounts = [mount for container in containers for mount in container.get("volumeMounts", ()) if "subPath" in mount]
    return {mount["subPath"] for mount in mounts if mount["name"] in ("oneagent-bin", "oneagent-share")}


@pytest.mark.parametrize("pod", pods(csi=False))
def test_the_init_container_understands_what_it_is_told(pod: Manifest) -> None:
    ours = pod["spec"]["initContainers"][0]
    told = settings.read(kubelet.environment(ours["env"], {}))
    with_agent = pod["metadata"]["annotations"]["oneagent.dynatrace.com/injected"] == "true"
    assert told.mode == ("installer" if with_agent else "")
    folders = {mount["mountPath"] for mount in ours["volumeMounts"]}
    assert folders == ({"/mnt/bin", "/mnt/share", "/mnt/config"} if with_agent else {"/mnt/share"})
    written = {path.removesuffix("/dt_metadata.json") for path, _ in told.files.render()}
    assert sub_paths(pod) <= written


@pytest.mark.parametrize("pod", pods(csi=True))
def test_the_driver_writes_all_that_containers_mount(pod: Manifest) -> None:
    (csi,) = [volume["csi"] for volume in pod["spec"]["volumes"] if "csi" in volume]
    pod_info = {request_validation.POD_NAME: "web-0", request_validation.POD_NAMESPACE: "shop"}
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="csi-1",
        target_path="/pods/1/mount",
        volume_capability=csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume()),
        volume_context={**csi["volumeAttributes"], **pod_info},
    )
    told = request_validation.publish(request, "/pods")
    with_agent = pod["metadata"]["annotations"]["oneagent.dynatrace.com/injected"] == "true"
    assert (told.mode, told.dynakube) == ("app" if with_agent else "conf", "prod")
    written = {f"agent/conf/{path.removesuffix('/dt_metadata.json')}" for path, _ in told.files.render()}
    if pod["spec"].get("hostUsers") is False:
        written |= {"bin", "agent/conf/ruxitagentproc.conf"}
    assert sub_paths(pod) <= written


@pytest.mark.parametrize("pod", pods(csi=True))
def test_attributes_are_within_csi_s_limits(pod: Manifest) -> None:
    (told,) = [volume["csi"]["volumeAttributes"] for volume in pod["spec"]["volumes"] if "csi" in volume]
    assert max(len(text.encode()) for item in told.items() for text in item) <= volume_attributes.MAX_BYTES
    assert sum(len(text.encode()) for item in told.items() for text in item) <= volume_attributes.MAX_MAP_BYTES
