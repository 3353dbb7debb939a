"""Volume attributes: a pod's author may write anything, and each attribute is refused by its own name."""

from __future__ import annotations

import pytest

from oneagent.common.agents.pod_files import Container, PodFiles
from oneagent.common.injection import volume_attributes
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.server import request_validation
from oneagent.csi_driver.server.errors import InvalidRequestError
from oneagent.csi_driver.server.request_validation import POD_NAME, POD_NAMESPACE, POD_UID, PublishRequest

ALL = {
    "mode": "app",
    "dynakube": "demo",
    "containers": "app,side-car",
    "image.app": "registry.example/shop@sha256:" + "1" * 64,
    "image.side-car": "mesh",
    "retryTimeout": "1m",
    "failurePolicy": "fail",
    "userNamespace": "true",
    "connectRetryMs": "6000",
    "basePodName": "shop",
    "workloadKind": "Deployment",
    "workloadName": "shop",
    "clusterId": "cluster-1",
    "enrichment": "true",
    "attribute.team": "checkout",
    "attribute.example.com/stage": "",
}


def parsed(attributes: dict[str, str]) -> PublishRequest:
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="csi-1",
        target_path="/pods/1/mount",
        volume_context={POD_NAME: "shop-1", POD_NAMESPACE: "default", POD_UID: "1", **attributes},
    )
    request.volume_capability.mount.SetInParent()
    return request_validation.publish(request, "/pods")


def test_all_attributes_of_the_webhook_are_read() -> None:
    found = parsed(ALL)
    assert (found.mode, found.never_empty, found.user_namespace, found.retry_timeout_seconds) == ("app", True, True, 60)
    assert found.files == PodFiles(
        Container(pod_name="shop-1", namespace="default", pod_uid="1", base_pod_name="shop", cluster_id="cluster-1"),
        (("app", ALL["image.app"]), ("side-car", "mesh")),
        connect_retry_ms=6000,
        enrichment=True,
        workload_kind="Deployment",
        workload_name="shop",
        resource_attributes={"team": "checkout", "example.com/stage": ""},
    )


def test_attributes_of_an_older_webhook_are_enough() -> None:
    names = ",".join(f"container-{number}" for number in range(40))
    found = parsed({"mode": "app", "dynakube": "demo", "containers": names, "retryTimeout": "10m"})
    assert (found.never_empty, found.user_namespace, found.files.enrichment) == (False, False, False)
    assert found.files.containers == tuple((name, "") for name in names.split(","))


def test_long_values_are_joined_from_their_parts() -> None:
    containers = ",".join(f"container-{number}" for number in range(60))
    image = "registry.example/" + "x" * 200
    encoded, left_out = volume_attributes.encode(
        {"mode": "app", "dynakube": "demo", "containers": containers, "image.container-0": image}
    )
    assert not left_out
    assert max(map(len, encoded.values())) <= volume_attributes.MAX_BYTES
    found = parsed(encoded)
    assert [name for name, _ in found.files.containers] == containers.split(",")
    assert found.files.containers[0][1] == image


@pytest.mark.parametrize(
    ("key", "bad", "problem"),
    [
        *(
            (key, "x" * 254, "has 254 characters, and at most 253 are accepted")
            for key in ("basePodName", "workloadKind", "workloadName", "clusterId", "enrichment", "failurePolicy")
        ),
        *(
            (key, "x\ny", "'x\\ny' contains a control character")
            for key in ("basePodName", "workloadKind", "workloadName", "clusterId", "image.app", "connectRetryMs")
        ),
        ("image.app", "x" * 513, "has 513 characters, and at most 512 are accepted"),
        ("failurePolicy", "silent", "'silent' is unknown; use fail, or leave it out"),
        ("userNamespace", "yes", "'yes' is no boolean; use true, or leave it out"),
        ("enrichment", "1", "'1' is no boolean; use true, or leave it out"),
        *(
            ("connectRetryMs", bad, f"{bad!r} is no number; use milliseconds, at most nine digits")
            for bad in ("-1", "1.5", "1e9", "٣", "1234567890", "soon")
        ),
        ("attribute.team", "a b", "'a b' must have at most 63 letters, digits"),
        ("attribute.team", "x" * 64, f"{'x' * 64!r} must have at most 63 letters, digits"),
        ("attribute.a=b", "c", "its key must read name or example.com/name"),
        ("attribute.a\\nb", "c", "its key must read name or example.com/name"),
        ("attribute.", "c", "its key must read name or example.com/name"),
    ],
)
def test_what_can_not_be_used_is_refused_with_the_name_of_its_attribute(key: str, bad: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        parsed(ALL | {key.replace("\\n", "\n"): bad})
    assert str(refusal.value).startswith(f"volume_context[{key}]: {problem}")
    assert str(refusal.value).isprintable()


def test_a_value_in_parts_is_not_longer_than_one_in_a_single_part() -> None:
    with pytest.raises(InvalidRequestError, match="has 256 characters, and at most 253 are accepted"):
        parsed(ALL | {"workloadName": "x" * 128, "workloadName~2": "x" * 128})


def test_no_more_resource_attributes_are_taken_than_a_dynakube_may_have() -> None:
    taken = {f"attribute.key{number}": "value" for number in range(126)}
    assert len(parsed(ALL | taken).files.resource_attributes) == 128
    with pytest.raises(InvalidRequestError, match=r"\[attribute\.\*\]: has 129 entries, and at most 128 are accepted"):
        parsed(ALL | taken | {"attribute.more": "value"})


def test_an_image_of_no_container_is_ignored() -> None:
    assert parsed(ALL | {"image.other": "x\n" * 1000}).files == parsed(ALL).files
