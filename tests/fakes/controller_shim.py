"""A CSI controller in front of a node-only driver, so that csi-sanity can exercise the driver fully.

csi-sanity takes volumes for its node specs from `CreateVolume` and looks for CONTROLLER_SERVICE at the
endpoint of the node. A node-only driver must offer neither: nothing would answer behind it. So the shim is
a proxy with a socket of its own. It serves a Controller, adds CONTROLLER_SERVICE to the driver's plugin
capabilities, and passes every other call on to the driver unread: the same bytes there, the same bytes or
the same status back. Whatever a spec sees of the node service is the driver's own doing.

The volume context that `CreateVolume` hands out is what kubelet would send with a publish.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn

import grpc

from oneagent.common.proto.csi.v1 import csi_pb2, csi_pb2_grpc

_LONGEST_CALL_SECONDS: Final = 120.0
_GET_PLUGIN_CAPABILITIES: Final = "/csi.v1.Identity/GetPluginCapabilities"


class ControllerShim:
    """Serves on `endpoint` what the driver at `driver` serves, and a Controller; use it in a `with`."""

    def __init__(self, *, driver: Path, endpoint: Path, volume_context: Mapping[str, str]) -> None:
        self._channel = grpc.insecure_channel(f"unix://{driver}")
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        controller = _Controller(volume_context)
        csi_pb2_grpc.add_ControllerServicer_to_server(controller, self._server)
        self._server.add_generic_rpc_handlers((_Forward(self._channel),))
        self._server.add_insecure_port(f"unix://{endpoint}")

    def __enter__(self) -> ControllerShim:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(grace=None).wait()
        self._channel.close()


class _Controller(csi_pb2_grpc.ControllerServicer):
    """Remembers names and nothing else; the calls that are missing here answer UNIMPLEMENTED."""

    def __init__(self, volume_context: Mapping[str, str]) -> None:
        self._volume_context = dict(volume_context)
        self._volumes: set[str] = set()

    def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        return csi_pb2.ControllerGetCapabilitiesResponse()

    def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.CreateVolumeResponse:
        """The id looks as kubelet's do for inline volumes, 68 characters long."""
        volume_id = "csi-" + hashlib.sha256(request.name.encode()).hexdigest()
        self._volumes.add(volume_id)
        volume = csi_pb2.Volume(volume_id=volume_id, volume_context=self._volume_context)
        return csi_pb2.CreateVolumeResponse(volume=volume)

    def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.DeleteVolumeResponse:
        self._volumes.discard(request.volume_id)
        return csi_pb2.DeleteVolumeResponse()

    def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        if not request.volume_id:
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "volume_id is missing")
        if not request.volume_capabilities:
            _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "volume_capabilities is empty")
        if request.volume_id not in self._volumes:
            _refuse(context, grpc.StatusCode.NOT_FOUND, f"there is no volume {request.volume_id}")
        response = csi_pb2.ValidateVolumeCapabilitiesResponse()
        response.confirmed.volume_capabilities.extend(request.volume_capabilities)
        return response


class _Forward(grpc.GenericRpcHandler):
    """Handles each method that no servicer has taken by asking the driver."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        method = handler_call_details.method
        # Without serializers a message is its bytes, here and towards the driver.
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)

        def forward(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                response = call(request, timeout=_remaining_seconds(context))
            except grpc.RpcError as error:
                _refuse(context, error.code(), error.details())
            return _with_controller(response) if method == _GET_PLUGIN_CAPABILITIES else response

        return grpc.unary_unary_rpc_method_handler(forward)


def _remaining_seconds(context: grpc.ServicerContext) -> float:
    """The caller's deadline, bounded: without one grpcio says centuries, more than it takes as a timeout."""
    return min(context.time_remaining(), _LONGEST_CALL_SECONDS)


def _with_controller(response: bytes) -> bytes:
    """The driver's plugin capabilities and CONTROLLER_SERVICE."""
    capabilities = csi_pb2.GetPluginCapabilitiesResponse.FromString(response)
    service = csi_pb2.PluginCapability.Service(type=csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE)
    capabilities.capabilities.append(csi_pb2.PluginCapability(service=service))
    return capabilities.SerializeToString()


def _refuse(context: grpc.ServicerContext, code: grpc.StatusCode, details: str | None) -> NoReturn:
    context.abort(code, details or "")
