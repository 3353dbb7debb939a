"""What the webhook tells the init container, the init container understands: every case, read by the real reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.server import request_validation
from oneagent.sidecars.init_container import settings
from oneagent.webhook import injection
from tests.unit.webhook.injection import cases, kubelet

INJECTED = [path for path in cases.CASES if cases.load(path)["outcome"]["injected"]]


@pytest.mark.parametrize("path", INJECTED, ids=lambda path: path.stem)
def test_the_init_container_understands_what_it_is_told(path: Path) -> None:
    pod, facts = cases.arguments(cases.load(path))
    pod = cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)
    ours = pod["spec"]["initContainers"][0]
    told = settings.read(kubelet.environment(ours["env"], {}))
    with_agent = pod["metadata"]["annotations"]["oneagent.dynatrace.com/injected"] == "true"
    folders = {mount["mountPath"] for mount in ours["volumeMounts"]}
    assert ("/mnt/bin" in folders) == with_agent
    assert told.mode == ("" if not with_agent else "installer" if "/mnt/config" in folders else "provisioned")
    wanted = {
        mount["subPath"] for c in pod["spec"]["containers"] for mount in c.get("volumeMounts", ()) if "subPath" in mount
    }
    named = {f"container_{name}.conf" for name, _ in told.containers}
    assert {name for name in wanted if name.startswith("container_")} <= named
    assert ("curl_options.conf" in wanted) == (told.connect_retry_ms > 0)
    assert ("enrichment" in wanted) == told.enrichment


@pytest.mark.parametrize("path", INJECTED, ids=lambda path: path.stem)
def test_the_driver_takes_the_volume(path: Path) -> None:
    pod, facts = cases.arguments(cases.load(path))
    pod = cases.patched(pod, injection.inject(pod, facts, cases.SETTINGS).patch)
    for csi in (volume["csi"] for volume in pod["spec"]["volumes"] if "csi" in volume):
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id="csi-1",
            target_path="/pods/1/mount",
            volume_capability=csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume()),
            volume_context={
                **csi["volumeAttributes"],
                request_validation.POD_NAME: "web-0",
                request_validation.POD_NAMESPACE: "shop",
            },
        )
        told = request_validation.publish(request, "/pods")
        assert (told.mode, told.dynakube) == ("app", "prod")
        mounting = [
            c["name"] for c in (*pod["spec"]["initContainers"][1:], *pod["spec"]["containers"]) if "volumeMounts" in c
        ]
        assert set(told.containers) <= set(mounting)
