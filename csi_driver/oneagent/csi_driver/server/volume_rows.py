"""A volume's rows in the metadata database, from the request: its record, and notices about its pod."""

from __future__ import annotations

from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRecord
from oneagent.csi_driver.server.mount_policy import Failures
from oneagent.csi_driver.server.request_validation import PublishRequest


def record(
    request: PublishRequest,
    state: VolumeState,
    now: float,
    *,
    tenant: str = "",
    version: str = "",
    layer: str = "",
    failures: Failures = Failures(),  # noqa: B008 - frozen
    reason: str = "",
) -> VolumeRecord:
    """Return the record of a volume. `now` as of `linux.clock`; `reason`: why its agent is not mounted."""
    return VolumeRecord(
        id=request.volume,
        mode=request.mode,
        dynakube=request.dynakube,
        tenant=tenant,
        version=version,
        layer=layer,
        target=request.target,
        read_only=request.read_only,
        pod_name=request.pod_name,
        pod_namespace=request.pod_namespace,
        pod_uid=request.pod_uid,
        state=state,
        attempts=failures.attempts,
        first_failed_at=failures.first_at,
        reason=reason,
        changed_at=now,
    )


def notice(request: PublishRequest, reason: str, message: str, now: float, *, kind: str = "Warning") -> Notice:
    """Return a notice, of which the provisioner makes an Event about the pod."""
    return Notice(
        kind=kind,
        reason=reason,
        message=message,
        dynakube=request.dynakube,
        pod_name=request.pod_name,
        pod_namespace=request.pod_namespace,
        pod_uid=request.pod_uid,
        at=now,
    )
