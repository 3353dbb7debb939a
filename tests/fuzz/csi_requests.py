"""CSI requests that no kubelet sends: every field odd, too long or too many, and the bytes altered.

A case goes through the server's own deserializer, interceptor and handlers, to a data directory without a version and
with no rights to mount anything: what is valid waits for its version in vain. It ends in a response, or in a status of
the driver's own errors. Its message and each log line are short and printable, nothing appears outside of the
directories of volumes, and the process grows by less than 5 MiB.
"""

from __future__ import annotations

import atexit
import logging
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc

from oneagent.common import logs
from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import DataDir, TargetPath
from oneagent.csi_driver.metadata import desired_versions
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.volumes import VolumeRepository
from oneagent.csi_driver.server import publish
from oneagent.csi_driver.server.interceptor import CallInterceptor
from oneagent.csi_driver.server.metrics import ServerMetrics
from oneagent.csi_driver.server.node_service import NodeService
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.request_decoding import MAX_MESSAGE_BYTES
from oneagent.csi_driver.server.request_validation import POD_NAME, POD_NAMESPACE, POD_UID
from oneagent.csi_driver.server.unpublish import Unpublisher
from oneagent.csi_driver.store import AgentStore
from tests.fuzz import alterations
from tests.fuzz.alterations import Chance

MESSAGES: Final[dict[str, Any]] = {
    "NodePublishVolume": csi_pb2.NodePublishVolumeRequest,
    "NodeUnpublishVolume": csi_pb2.NodeUnpublishVolumeRequest,
    "NodeGetVolumeStats": csi_pb2.NodeGetVolumeStatsRequest,
    "NodeGetCapabilities": csi_pb2.NodeGetCapabilitiesRequest,
    "NodeGetInfo": csi_pb2.NodeGetInfoRequest,
}
STATUSES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}
GROWTH_BYTES: Final = 5 << 20
_LARGE: Final = 1_000_000
LONGEST_MESSAGE: Final = 1_000
LONGEST_LINE: Final = 20_000
"""Five values of 512 characters, each of which JSON may write with six."""
_PODS: Final = ("a", "b")
_ATTRIBUTES: Final = {
    "retryTimeout": ("10m", "0s"),
    "failurePolicy": ("fail",),
    "userNamespace": ("true", "false"),
    "connectRetryMs": ("0", "6000", "999999999"),
    "basePodName": ("cart",),
    "workloadKind": ("Deployment",),
    "workloadName": ("cart", "x" * 253),
    "clusterId": ("cluster-1",),
    "enrichment": ("true",),
    "image.c0": ("registry.example/cart:1", "x" * 512),
    "attribute.team": ("checkout", ""),
    "attribute.example.com/stage": ("prod",),
}
_TARGET: Final = "pods/{}/volumes/kubernetes.io~csi/agent/mount"


class _AbortedError(Exception):
    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{status}: {details}")
        self.status = status
        self.details = details


class _Call:
    """gRPC's side of a call."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def time_remaining(self) -> float:
        return 1.0

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return True

    def abort(self, status: grpc.StatusCode, details: str) -> NoReturn:
        raise _AbortedError(status, details)


class _Lines(logging.Handler):
    """The log lines of a case, in both formats."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += [formatter.format(record) for formatter in (logs.TextFormatter(), logs.JsonFormatter())]


class Target:
    """The handlers of a server without a socket, on a directory of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.kubelet = place / "kubelet"
        data = DataDir(place / "data")
        data.create()
        database = Database(data.database, data.database_lock)
        name, tenant, version = DynaKubeName("demo"), TenantId("abc12345"), Version("7.7.7")
        demo = desired_versions.DesiredState(name, tenant, version, mount_attempts=1)
        desired_versions.replace_all(database, data.dynakubes, [demo])
        self.volumes = VolumeRepository(database)
        mounts = OverlayMounter(data, self.kubelet, user_namespace=False)
        self.publisher = publish.Publisher(
            # No pod is in this namespace, so no host agent's directory is mounted.
            publish.PublishSettings("node1", publish_wait_seconds=0.0, max_waiting=4, host_namespace="-"),
            data,
            AgentStore(data),
            mounts,
            self.volumes,
            desired_versions.DesiredStateReader(database, data.dynakubes),
        )
        self.unpublisher = Unpublisher(self.publisher, data, mounts, self.volumes)
        metrics = ServerMetrics()
        service = NodeService(
            "node1", str(self.kubelet), self.publisher, self.unpublisher, data, self.volumes, mounts, metrics
        )
        self._interceptor = CallInterceptor(metrics)
        self._service = service
        self.log = _Lines()
        logger = logging.getLogger("oneagent.csi_driver")
        logger.addHandler(self.log)
        logger.setLevel(logging.INFO)
        logger.propagate = False

    def call(self, method: str, content: bytes) -> None:
        """Make a call; `_AbortedError` if it is refused."""

        class Details:
            pass

        details: Any = Details()
        details.method = f"/csi.v1.Node/{method}"
        behaviour: Any = grpc.unary_unary_rpc_method_handler(
            getattr(self._service, method), request_deserializer=MESSAGES[method].FromString
        )
        handler = self._interceptor.intercept_service(lambda _: behaviour, details)
        rpc = _Call()
        try:
            handler.unary_unary(handler.request_deserializer(content), rpc)
        finally:
            for callback in rpc.callbacks:
                callback()

    def reset(self) -> None:
        """Begin a case: the parents of two targets exist, and nothing else."""
        self.log.lines.clear()
        for record in self.volumes.all():
            self.unpublisher.unpublish(record.id, TargetPath(record.target))
        for pod in _PODS:
            (self.kubelet / _TARGET.format(pod)).parent.mkdir(parents=True, exist_ok=True)


_target: Target | None = None


def target() -> Target:
    """Return this process's target."""
    global _target  # noqa: PLW0603 - it costs as much as a hundred cases
    if _target is None:
        place = tempfile.TemporaryDirectory(prefix="fuzz-")
        atexit.register(place.cleanup)
        _target = Target(Path(place.name))
    return _target


def judge(chance: Chance) -> str:
    """Judge some calls in a row; the status of the last one, empty if it was answered."""
    server = target()
    server.reset()
    result = ""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        method, content = case(chance, str(server.kubelet))
        before = _peak_bytes()
        try:
            server.call(method, content)
            result = ""
        except _AbortedError as refused:
            assert refused.status in STATUSES, (refused, server.log.lines)
            assert refused.details.isprintable(), refused.details
            assert len(refused.details) <= LONGEST_MESSAGE, refused.details
            result = refused.status.name
        assert _peak_bytes() - before < GROWTH_BYTES, f"{method} of {len(content)} bytes grew the process"
        for line in server.log.lines:
            assert line.isprintable(), line
            assert len(line) <= LONGEST_LINE, line
    assert sorted(os.listdir(server.place)) == ["data", "kubelet"]
    assert os.listdir(server.kubelet) == ["pods"]
    assert sorted(os.listdir(server.kubelet / "pods")) == sorted(_PODS)
    return result


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


# ---------------------------------------------------------------- cases


def case(chance: Chance, root: str) -> tuple[str, bytes]:
    """Make a method's name and the bytes of its request."""
    method = chance.choice((*MESSAGES, "NodePublishVolume", "NodePublishVolume"))
    pod = chance.choice(_PODS)
    volume, path = f"csi-{pod}", f"{root}/{_TARGET.format(pod)}"
    match method:
        case "NodePublishVolume":
            request: Any = _publish(chance, volume, path)
        case "NodeUnpublishVolume":
            request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume, target_path=path)
        case "NodeGetVolumeStats":
            request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume, volume_path=path)
        case _:
            request = MESSAGES[method]()
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        _spoil(chance, request)
    content: bytes = request.SerializeToString()
    if chance.random() < 0.2:
        content = alterations.anyhow(chance, content)
    if chance.random() < 0.1:
        content += _unknown_field(chance)
    return method, content[:MAX_MESSAGE_BYTES]


def _publish(chance: Chance, volume: str, path: str) -> csi_pb2.NodePublishVolumeRequest:
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id=volume,
        target_path=path,
        volume_context={
            POD_NAME: "cart",
            POD_NAMESPACE: "shop",
            POD_UID: "1",
            "mode": chance.choice(("app", "app", "conf", "host")),
            "dynakube": chance.choice(("demo", "demo", "absent")),
        },
    )
    request.volume_capability.mount.SetInParent()
    if chance.random() < 0.3:
        request.volume_context["containers"] = ",".join(
            f"c{n % 1001}" for n in range(chance.choice((1, 3, 1000, 1002)))
        )
    for key, values in _ATTRIBUTES.items():
        if chance.random() < 0.2:
            request.volume_context[key] = chance.choice(values)
    return request


def _spoil(chance: Chance, request: Any) -> None:
    """Spoil one field, whatever its type."""
    fields = request.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _spoil_map(chance, getattr(request, field.name))
    elif field.message_type is not None:
        part = getattr(request, field.name)
        part.SetInParent()
        _spoil(chance, part)
    elif field.is_repeated:
        values = getattr(request, field.name)
        count = _count(chance)
        values.extend([_text(chance)[: _LARGE // count]] * count if field.cpp_type == field.CPPTYPE_STRING else [])
    elif field.cpp_type == field.CPPTYPE_STRING:
        setattr(request, field.name, _text(chance, getattr(request, field.name)))
    elif field.cpp_type == field.CPPTYPE_BOOL:
        setattr(request, field.name, chance.random() < 0.5)
    elif field.cpp_type == field.CPPTYPE_ENUM:
        setattr(request, field.name, chance.randrange(-2, 9))


def _spoil_map(chance: Chance, entries: Any) -> None:
    known = (POD_NAME, POD_NAMESPACE, POD_UID, "mode", "dynakube", "containers", "retryTimeout", *_ATTRIBUTES)
    if chance.random() < 0.7:
        key = chance.choice(known)
        entries[key] = _text(chance, entries.get(key, ""))
    elif chance.random() < 0.5:
        entries.pop(chance.choice(known), None)
    else:
        count = chance.choice((1, 3, 1_001, 20_000))
        text = _text(chance)[: _LARGE // count // 2]
        # Attributes that may be many, and the further parts of one.
        key = chance.choice(("{}{}", "attribute.{}{}", "image.{}{}", "containers~{}", "attribute.team~{}"))
        for number in range(count):
            entries[key.format(number, text)] = text


def _count(chance: Chance) -> int:
    return chance.choice((1, 2, 65, 1_001, 20_000, 300_000))


def _text(chance: Chance, valid: str = "x") -> str:
    """Make an odd text, often from a valid one."""
    odd = chance.choice(
        (
            "",
            "/",
            "/..",
            "//",
            "\0",
            "\n",
            "\x1b[2J",
            "\x9b",
            "\u202e",
            "é",
            "🙂",
            ",",
            "a,",
            "=",
            '"',
            "%s",
            "{}",
            "-",
            ".",
        )
    )
    at = chance.randrange(len(valid) + 1)
    match chance.randrange(5):
        case 0:
            return odd
        case 1:
            return valid[:at] + odd + valid[at:]
        case 2:
            return (odd or "x") * chance.choice((2, 100, 300, 5_000, 70_000, 300_000))
        case 3:
            return valid + "x" * chance.choice((1, 64, 129, 254, 4_096, 1_000_000))
        case _:
            return "context=" + odd if chance.random() < 0.5 else "9" * chance.choice((1, 200, 400)) + "h"


def _unknown_field(chance: Chance) -> bytes:
    """A field that no message has: number 2,000, of some length."""
    length = chance.choice((0, 100, 1_000, 100_000, 900_000))
    return b"\x82\x7d" + bytes((0x80 | length & 0x7F, 0x80 | length >> 7 & 0x7F, length >> 14)) + bytes(length)
