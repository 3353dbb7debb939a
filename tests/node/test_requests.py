"""Requests of any size and any shape: refused by name, and the server's memory stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.server.request_decoding import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from oneagent.csi_driver.server.request_validation import POD_NAME
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import refused

MIB = 1 << 20
LARGEST = MAX_MESSAGE_BYTES - 1000
PARSED = MAX_REQUEST_BYTES - 1000

Request = csi_pb2.NodePublishVolumeRequest
Spoil = Callable[[Request], object]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("requests"), "--publish-wait=2s") as (driver, kubelet):
        for number in range(20):
            kubelet.publish(f"warm{number}")
        yield driver


def attribute(key: str, value: str) -> Spoil:
    return lambda request: request.volume_context.update({key: value})


def names(count: int) -> str:
    return ",".join(f"c{number}" for number in range(count))


def flood(field: str, total_bytes: int, *, entry_bytes: int) -> Spoil:
    """Fill a map with entries."""

    def spoil(request: Request) -> None:
        for number in range(total_bytes // (entry_bytes + 12)):
            getattr(request, field)[f"{number:06}"] = "x" * entry_bytes

    return spoil


def kubelets_request(kubelet: Kubelet, pod: str, spoil: Spoil) -> Request:
    kubelet.target(pod).parent.mkdir(parents=True, exist_ok=True)
    request = kubelet.request(pod)
    spoil(request)
    return request


LARGE: dict[str, Spoil] = {
    "containers": attribute("containers", names(200_000)[:LARGEST]),
    "containers that are parsed": attribute("containers", names(11_000)[: 64 << 10]),
    "containers of a letter": attribute("containers", "a," * (32 << 10)),
    "an attribute": attribute("x", "x" * LARGEST),
    "many attributes": flood("volume_context", LARGEST, entry_bytes=0),
    "many attributes that are parsed": flood("volume_context", PARSED, entry_bytes=0),
    "publish context": flood("publish_context", LARGEST, entry_bytes=100),
    "secrets": flood("secrets", PARSED, entry_bytes=1),
    "empty mount flags": lambda request: request.volume_capability.mount.mount_flags.extend([""] * (PARSED // 2)),
    "mount flags": lambda request: request.volume_capability.mount.mount_flags.extend(["ro"] * (LARGEST // 4)),
    "a mount flag": lambda request: request.volume_capability.mount.mount_flags.append("context=" + "x" * PARSED),
    "a volume id": lambda request: setattr(request, "volume_id", "x" * LARGEST),
    "a volume id that is parsed": lambda request: setattr(request, "volume_id", "\x1b" * PARSED),
    "a target": lambda request: setattr(request, "target_path", request.target_path + "/x" * (PARSED // 2)),
    "a staging target": lambda request: setattr(request, "staging_target_path", "/x" * (LARGEST // 2)),
    "a pod's name": lambda request: request.volume_context.update(
        {POD_NAME: "p" * (PARSED // 2), "containers": names(1000)}
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_request_that_is_admitted_grows_the_server(driver: Driver, kubelet: Kubelet, name: str) -> None:
    request = kubelets_request(kubelet, "large", LARGE[name])
    assert request.ByteSize() <= MAX_MESSAGE_BYTES
    # What the first call of a server needs has nothing to do with its size.
    kubelet.publish("before")
    kubelet.unpublish("before")
    before = driver.forget_peak()
    for _ in range(3):
        try:
            kubelet.node.NodePublishVolume(request, timeout=10)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
            assert len(error.details() or "") < 1000
    assert driver.memory() - before < 5 * MIB
    kubelet.publish("after")
    kubelet.unpublish("after")


@pytest.mark.parametrize(
    ("containers", "message"),
    [
        (names(1001), "has 1001 names, and at most 1000 are accepted"),
        ("app,side-car,app", "'app' is named twice"),
        (names(1000) + ",c999", "has 1001 names"),
        ("a" * 63 + ("," + "a" * 62) * 1100, "has 69363 bytes, and at most 65536 are accepted"),
    ],
)
def test_too_many_containers_are_refused_by_the_name_of_the_attribute(
    kubelet: Kubelet, containers: str, message: str
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, f"volume_context[containers]: {message}"):
        kubelet.publish("crew", containers=containers)


def test_a_megabyte_of_containers_is_refused_as_it_is_not_parsed(driver: Driver, kubelet: Kubelet) -> None:
    before = driver.forget_peak()
    with refused(grpc.StatusCode.INVALID_ARGUMENT, f"at most {MAX_REQUEST_BYTES} are accepted"):
        kubelet.publish("megabyte", containers=names(200_000)[: 1 << 20])
    assert driver.memory() - before < 5 * MIB


def test_the_largest_list_is_taken(driver: Driver, kubelet: Kubelet) -> None:
    before = driver.forget_peak()
    view = kubelet.publish("whole-crew", containers=",".join(f"c{number:04}{'x' * 58}" for number in range(1000)))
    assert len(list((view / "agent/conf").glob("container_*.conf"))) == 1000
    assert driver.memory() - before < 5 * MIB


def test_more_than_grpc_admits_is_refused_without_being_read(driver: Driver, kubelet: Kubelet) -> None:
    before = driver.forget_peak()
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        kubelet.publish("huge", containers="x" * (8 * MIB))
    assert driver.memory() - before < 5 * MIB


@pytest.mark.parametrize("call", ["NodePublishVolume", "NodeUnpublishVolume", "NodeGetVolumeStats"])
def test_what_is_no_message_is_refused(kubelet: Kubelet, call: str) -> None:
    send: Any = kubelet.channel.unary_unary(f"/csi.v1.Node/{call}")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "request: is no valid message"):
        send(b"\xff\xff\xff", timeout=5)


def test_control_characters_reach_neither_the_log_nor_the_answer(driver: Driver, kubelet: Kubelet) -> None:
    hostile = "x\x1b[2J\n12:00:00.000 info forged\r\x9b31m\u202e"
    for spoil in (
        attribute("mode", hostile),
        attribute(POD_NAME, hostile),
        attribute("containers", hostile),
        attribute("retryTimeout", hostile),
        lambda request: setattr(request, "volume_id", hostile),
        lambda request: setattr(request, "target_path", request.target_path + hostile),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            kubelet.node.NodePublishVolume(kubelets_request(kubelet, "hostile", spoil), timeout=5)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (caught.value.details() or "").isprintable()
    kubelet.publish("last")
    text = driver.log.read_text()
    assert "forged" in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert not [line for line in text.split("\n") if line.startswith("12:00:00.000 info forged")]
