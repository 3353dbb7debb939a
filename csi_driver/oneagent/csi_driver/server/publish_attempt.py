"""One NodePublishVolume call on its way through the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from oneagent.common.identifiers import Version
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.server.call_result import CallResult
from oneagent.csi_driver.server.inflight import Call
from oneagent.csi_driver.server.mount_policy import Failures
from oneagent.csi_driver.server.mount_target import MountTarget
from oneagent.csi_driver.server.request_validation import PublishRequest


class Caller(Protocol):
    """The connection to the caller."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without one."""
        ...

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Register a callback for the end of the call; False if it has ended."""
        ...


@dataclass(frozen=True, slots=True)
class PublishResult:
    """Result of a successful publish. `reason`: why the desired version is not mounted."""

    result: CallResult
    version: str = ""
    reason: str = ""


@dataclass(slots=True)
class PublishAttempt:
    """A request, the locks and the target that it holds, and the version that it can mount.

    `desired`, `version` and `reason` are resolved again after each wait. `version` is None while nothing can be
    mounted, and `reason` says why.
    """

    request: PublishRequest
    caller: Caller
    call: Call
    target: MountTarget
    record: VolumeRecord | None
    """The volume's row from before this call."""
    desired: DesiredState | None = None
    version: Version | None = None
    reason: str = ""

    @property
    def failures(self) -> Failures:
        """The failed mounts before this call."""
        return Failures() if self.record is None else Failures(self.record.attempts, self.record.first_failed_at)
