"""A CSI driver reduced to its Identity service: a real gRPC server (grpcio) whose answers a test can turn."""

from __future__ import annotations

import threading
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from google.protobuf import wrappers_pb2

from oneagent.common.proto.csi.v1 import csi_pb2, csi_pb2_grpc


class IdentityDriver(csi_pb2_grpc.IdentityServicer):
    """Serves at `socket` between `start` and `stop`; also a context manager.

    `ready`: what Probe says, `None` for nothing. `failure`: the code every call fails with.
    `hang`: calls get no answer until it is cleared, or the driver stops.
    """

    def __init__(self, socket: Path, name: str = "csi.oneagent.dynatrace.com") -> None:
        self.socket = socket
        self.name = name
        self.ready: bool | None = True
        self.failure: grpc.StatusCode | None = None
        self.probes = 0
        self._go_on = threading.Event()
        self._go_on.set()
        self._server: grpc.Server | None = None

    @property
    def hang(self) -> bool:
        return not self._go_on.is_set()

    @hang.setter
    def hang(self, value: bool) -> None:
        if value:
            self._go_on.clear()
        else:
            self._go_on.set()

    def start(self) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(4))
        csi_pb2_grpc.add_IdentityServicer_to_server(self, server)
        server.add_insecure_port(f"unix:{self.socket}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """End at once; the socket's file stays behind or not, as gRPC sees fit, and is removed."""
        self._go_on.set()
        if self._server:
            self._server.stop(0).wait()
            self._server = None
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginInfoResponse:
        self._obey(context)
        return csi_pb2.GetPluginInfoResponse(name=self.name, vendor_version="1.2.3")

    def Probe(self, request: csi_pb2.ProbeRequest, context: grpc.ServicerContext) -> csi_pb2.ProbeResponse:
        self.probes += 1
        self._obey(context)
        if self.ready is None:
            return csi_pb2.ProbeResponse()
        return csi_pb2.ProbeResponse(ready=wrappers_pb2.BoolValue(value=self.ready))

    def _obey(self, context: grpc.ServicerContext) -> None:
        self._go_on.wait(30)
        if self.failure:
            context.abort(self.failure, "told to fail")
