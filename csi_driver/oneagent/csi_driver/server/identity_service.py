"""The CSI Identity service."""

from __future__ import annotations

from typing import Any

import grpc

from oneagent.common.identifiers import DRIVER_NAME
from oneagent.common.proto.csi.v1 import csi_pb2, csi_pb2_grpc


class IdentityService(csi_pb2_grpc.IdentityServicer):
    """The driver's name, version and readiness. Without a controller it advertises no plugin capability."""

    def __init__(self, version: str) -> None:
        self._version = version

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> csi_pb2.GetPluginInfoResponse:
        return csi_pb2.GetPluginInfoResponse(name=DRIVER_NAME, vendor_version=self._version)

    def GetPluginCapabilities(
        self,
        request: Any,
        context: grpc.ServicerContext,
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        return csi_pb2.GetPluginCapabilitiesResponse()

    def Probe(self, request: Any, context: grpc.ServicerContext) -> csi_pb2.ProbeResponse:
        """Report ready: a download in progress is no reason to restart the server."""
        response = csi_pb2.ProbeResponse()
        response.ready.value = True
        return response
