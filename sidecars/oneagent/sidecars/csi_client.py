"""Client of a CSI driver's Identity service: name, readiness, and the state of its socket.

RpcError      from every call
ValueError    from `parse_address`, for an address that is not a unix socket
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import time
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from oneagent.common import logs
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.sidecars.grpc import client
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode

log = logging.getLogger(__name__)

GET_PLUGIN_INFO: Final = "/csi.v1.Identity/GetPluginInfo"
PROBE: Final = "/csi.v1.Identity/Probe"

_ATTEMPT_SECONDS: Final = 0.5
_LOG_EVERY_SECONDS: Final = 10.0

Observer = Callable[[str, StatusCode, float], None]
"""Called after each call with its method, status and seconds"""


def parse_address(address: str) -> str:
    """Return the path of a `--csi-address`: `/csi/csi.sock`, also relative, with or without `unix:` or `unix://`."""
    path = address.removeprefix("unix:").removeprefix("//")
    if not path or re.match(r"[a-z][a-z0-9+.-]*:", path):
        raise ValueError(f"{address!r} is not the path of a unix socket, such as /run/csi/socket")
    return path


def wait_for_socket(path: str, limit_seconds: float | None) -> bool:
    """Wait until the socket accepts a connection; False after the limit (`None`: no limit)."""
    started = time.monotonic()
    last_logged = started
    while True:
        now = time.monotonic()
        if limit_seconds is not None and now - started >= limit_seconds:
            return False
        try:
            client.connect(path, now + _ATTEMPT_SECONDS).close()
        except OSError as error:
            if now - last_logged >= _LOG_EVERY_SECONDS:
                log.warning("driver not reachable yet", extra=logs.fields(socket=path, reason=error.strerror))
                last_logged = now
            # connect() waits by itself where waiting helps; other errors (no permission) would spin.
            time.sleep(0.1)
        else:
            return True


def file_id(path: str) -> tuple[int, int, int] | None:
    """Return the identity of the socket's file, different for a successor; None if there is no file.

    It includes the time, since ext4 reuses the number of a removed inode for the next file.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _no_observer(_method: str, _status: StatusCode, _seconds: float) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Driver:
    """Calls to a driver's Identity service, each over its own connection and within `timeout_seconds`."""

    path: str
    timeout_seconds: float
    observe: Observer = _no_observer

    def name(self) -> str:
        """Return the driver's name; empty only if the driver is faulty."""
        try:
            answer = csi_pb2.GetPluginInfoResponse.FromString(self._call(GET_PLUGIN_INFO))
        except DecodeError as error:
            raise RpcError(StatusCode.INTERNAL, f"{GET_PLUGIN_INFO} returned an invalid response") from error
        return answer.name

    def ready(self) -> bool:
        """Return whether the driver is ready; a response without the field means ready (CSI spec, Probe)."""
        try:
            answer = csi_pb2.ProbeResponse.FromString(self._call(PROBE))
        except DecodeError as error:
            raise RpcError(StatusCode.INTERNAL, f"{PROBE} returned an invalid response") from error
        return answer.ready.value if answer.HasField("ready") else True

    def _call(self, method: str) -> bytes:
        started = time.monotonic()
        status = StatusCode.OK
        try:
            # Both requests have no fields.
            return client.call(self.path, method, b"", self.timeout_seconds)
        except RpcError as error:
            status = error.status
            raise
        finally:
            self.observe(method, status, time.monotonic() - started)
