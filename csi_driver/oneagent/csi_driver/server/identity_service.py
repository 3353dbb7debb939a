"""The CSI Identity service."""

from __future__ import annotations

from typing import Any

import grpc

from oneagent.common.identifiers import DRIVER_NAME
from oneagent.common.proto.csi.v1 import csi_pb2, csi_pb2_grpc
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.server.errors import NotReadyError


class IdentityService(csi_pb2_grpc.IdentityServicer):
    """The driver's name, version and readiness. Without a controller it advertises no plugin capability."""

    def __init__(self, version: str, data: DataDir) -> None:
        self._version = version
        self._data = data

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> csi_pb2.GetPluginInfoResponse:
        return csi_pb2.GetPluginInfoResponse(name=DRIVER_NAME, vendor_version=self._version)

    def GetPluginCapabilities(
        self,
        request: Any,
        context: grpc.ServicerContext,
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        return csi_pb2.GetPluginCapabilitiesResponse()

    def Probe(self, request: Any, context: grpc.ServicerContext) -> csi_pb2.ProbeResponse:
        """Report ready, unless only a restart helps: a download in progress or a read-only disk is no reason for one.

        A container keeps its mount of a data directory that was deleted on the node, and nothing can be created in it.
        """
        if self._data.is_deleted():
            raise NotReadyError(f"the data directory {self._data.root} was deleted on the node: restart the container")
        response = csi_pb2.ProbeResponse()
        response.ready.value = True
        return response
