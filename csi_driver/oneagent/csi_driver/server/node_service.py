"""The CSI Node service. Handlers hold the happy path; `interceptor` counts, logs and maps errors."""

from __future__ import annotations

from typing import Any, Final

from oneagent.common.proto.csi.v1 import csi_pb2, csi_pb2_grpc
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.volumes import VolumeRepository
from oneagent.csi_driver.server import request_validation, volume_stats
from oneagent.csi_driver.server.call_result import CallResult
from oneagent.csi_driver.server.errors import AttemptFailedError
from oneagent.csi_driver.server.interceptor import CallContext
from oneagent.csi_driver.server.metrics import ServerMetrics
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.publish import Publisher
from oneagent.csi_driver.server.unpublish import Unpublisher

_NODE_CAPABILITIES: Final = (
    csi_pb2.NodeServiceCapability.RPC.GET_VOLUME_STATS,
    csi_pb2.NodeServiceCapability.RPC.VOLUME_CONDITION,
)


class NodeService(csi_pb2_grpc.NodeServicer):
    """The volumes of this node. Staging and expansion are not advertised, so they stay unimplemented."""

    def __init__(
        self,
        node_id: str,
        target_root: str,
        publisher: Publisher,
        unpublisher: Unpublisher,
        data: DataDir,
        volumes: VolumeRepository,
        mounts: OverlayMounter,
        metrics: ServerMetrics,
    ) -> None:
        self._node_id = node_id
        self._target_root = target_root
        self._publisher = publisher
        self._unpublisher = unpublisher
        self._data = data
        self._volumes = volumes
        self._mounts = mounts
        self._metrics = metrics

    def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: CallContext
    ) -> csi_pb2.NodePublishVolumeResponse:
        try:
            published = self._publisher.publish(request_validation.publish(request, self._target_root), context)
        except AttemptFailedError:
            self._metrics.failed_attempts.inc()
            raise
        context.set_result(published.result, message=published.reason, version=published.version)
        if published.result is CallResult.EMPTY:
            self._metrics.empty_views.inc()
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(
        self,
        request: csi_pb2.NodeUnpublishVolumeRequest,
        context: CallContext,
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        volume = request_validation.volume_id(request.volume_id)
        target = request_validation.target_path(request.target_path, self._target_root)
        self._unpublisher.unpublish(volume, target)
        return csi_pb2.NodeUnpublishVolumeResponse()

    def NodeGetVolumeStats(
        self,
        request: csi_pb2.NodeGetVolumeStatsRequest,
        context: CallContext,
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        volume = request_validation.volume_id(request.volume_id)
        path = request_validation.volume_path(request.volume_path, self._target_root)
        stats = volume_stats.read_usage(volume, path, self._data, self._volumes, self._mounts)
        units = (
            (csi_pb2.VolumeUsage.BYTES, stats.size),
            (csi_pb2.VolumeUsage.INODES, stats.inodes),
        )
        return csi_pb2.NodeGetVolumeStatsResponse(
            usage=[
                csi_pb2.VolumeUsage(unit=unit, total=amount.total, available=amount.available, used=amount.used)
                for unit, amount in units
            ],
            volume_condition=csi_pb2.VolumeCondition(abnormal=bool(stats.problem), message=stats.message),
        )

    def NodeGetCapabilities(
        self,
        request: Any,
        context: CallContext,
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        return csi_pb2.NodeGetCapabilitiesResponse(
            capabilities=[
                csi_pb2.NodeServiceCapability(rpc=csi_pb2.NodeServiceCapability.RPC(type=capability))
                for capability in _NODE_CAPABILITIES
            ]
        )

    def NodeGetInfo(self, request: Any, context: CallContext) -> csi_pb2.NodeGetInfoResponse:
        return csi_pb2.NodeGetInfoResponse(node_id=self._node_id)
