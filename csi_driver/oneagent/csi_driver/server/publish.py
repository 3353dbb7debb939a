"""NodePublishVolume and NodeUnpublishVolume.

The kernel is authoritative for mounts, the store for installed versions, the volumes table for requests and their
failures. The ordinary path never reads the whole mount table, so a publish costs the same on a node with five thousand
mounts as on an empty one.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from oneagent.common import logs
from oneagent.common.identifiers import Version, agent_version
from oneagent.common.injection.contract import AGENT_NOT_MOUNTED, LAST_GOOD_MOUNTED
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.metadata.desired_versions import DesiredState, DesiredStateReader
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRecord, VolumeRepository
from oneagent.csi_driver.server import host_volumes, mount_policy, view_mounter
from oneagent.csi_driver.server.call_result import CallResult
from oneagent.csi_driver.server.errors import (
    AlreadyExistsError,
    AttemptFailedError,
    InvalidRequestError,
    PublishedElsewhereError,
    UnavailableError,
)
from oneagent.csi_driver.server.inflight import InFlightCalls
from oneagent.csi_driver.server.mount_policy import Failures, RetryLimits
from oneagent.csi_driver.server.mount_target import MountTarget
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.publish_attempt import Caller, PublishAttempt, PublishResult
from oneagent.csi_driver.server.request_validation import PublishRequest
from oneagent.csi_driver.server.version_waiter import VersionWaiter
from oneagent.csi_driver.server.view_mounter import ViewMounter
from oneagent.csi_driver.server.waiting_places import Place, WaitingPlaces
from oneagent.csi_driver.store import AgentStore, StoreBusyError, demand

log = logging.getLogger(__name__)

_CSI_TARGET = re.compile(r"/volumes/kubernetes\.io~csi/[^/]+/mount$")
"""The end of the target path that kubelet chooses for each CSI volume."""

ANSWER_SECONDS = 1.0
"""A waiting call responds this long before its caller's deadline."""


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """Settings of `Publisher`.

    `publish_wait_seconds`: the longest wait of one call for its version before it counts as a failed attempt.
    `max_waiting`: maximum of calls that wait at once, of which a pod and a namespace have shares; others fail with
    UNAVAILABLE, which counts as no attempt but starts the mount timeout.
    `host_namespace`: only its pods get the host agent's directory, which they share; empty for any pod.
    """

    node_id: str
    publish_wait_seconds: float = 60.0
    max_waiting: int = 400
    keep_logs: bool = False
    host_namespace: str = ""


class Publisher:
    """Publishes and unpublishes volumes. Thread-safe: any number of volumes at once."""

    def __init__(
        self,
        settings: PublishSettings,
        data: DataDir,
        store: AgentStore,
        mounts: OverlayMounter,
        volumes: VolumeRepository,
        desired: DesiredStateReader,
        *,
        now: Callable[[], float] = time.time,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._settings = settings
        self._data = data
        self._store = store
        self._mounts = mounts
        self._volumes = volumes
        self._desired = desired
        self._now = now
        self._failpoint = failpoint
        self.view_mounter = ViewMounter(
            settings.node_id, data, store, mounts, keep_logs=settings.keep_logs, now=now, failpoint=failpoint
        )
        self.version_waiter = VersionWaiter(str(data.agents), desired.refresh, store.is_removing)
        self.places = WaitingPlaces(settings.max_waiting)
        self.calls = InFlightCalls(self.version_waiter.wake)

    # ------------------------------------------------------------------ publish

    def publish(self, request: PublishRequest, caller: Caller) -> PublishResult:
        """Mount the volume's view or directory; `DriverError` if that fails."""
        self._refuse_other_hosts(request)
        with (
            self.calls.hold(request.volume, "a publish") as call,
            self.calls.hold(request.target, "a publish"),
            self._mounts.open_target(request.target) as target,
        ):
            if not target.is_reachable:
                raise InvalidRequestError("target_path", f"the parent directory of {request.target!r} does not exist")
            attempt = PublishAttempt(request, caller, call, target, self._volumes.get(request.volume))
            if target.is_mounted():
                return self._confirm_mounted(attempt)
            self._refuse_second_target(attempt)
            if request.mode == "host":
                return self._publish_host(attempt)
            return self._publish_view(attempt)

    def _confirm_mounted(self, attempt: PublishAttempt) -> PublishResult:
        """Accept the existing mount if it is this volume's, as requested; else refuse, since mounts never stack."""
        request, record, target = attempt.request, attempt.record, attempt.target
        top = mount_table.top_at(mount_table.read(), target.real_path())
        if (
            record is None
            and request.mode == "host"
            and host_volumes.find_owner(self._data, target) == request.dynakube
        ):
            # The database was lost. Reconciliation at the start adopts only views from the mount table.
            record = self._volumes.put(self._record(request, VolumeState.MOUNTED))
        if record is None or top is None or record.target != request.target:
            raise AlreadyExistsError(f"target_path: something else is mounted at {request.target!r}")
        # A row adopted from the mount table after the database was lost has no DynaKube.
        same_dynakube = record.dynakube in {"", request.dynakube}
        if not (same_dynakube and record.mode == request.mode and record.read_only == request.read_only):
            raise AlreadyExistsError(
                f"volume {request.volume} is published at {request.target!r} with mode {record.mode!r}, DynaKube "
                f"{record.dynakube!r} and readonly={record.read_only}; unpublish it first"
            )
        if request.mode == "app" and self.view_mounter.find_owner(top) != request.volume:
            raise AlreadyExistsError(f"target_path: another volume's view is mounted at {request.target!r}")
        if request.mode == "host" and host_volumes.find_owner(self._data, target) != request.dynakube:
            raise AlreadyExistsError(f"target_path: something else is mounted at {request.target!r}")
        if not record.dynakube:
            row = (VolumeState.MOUNTED, record.tenant)
            self._volumes.put(self._record(request, *row, version=record.version, layer=record.layer))
        return PublishResult(CallResult.ALREADY_MOUNTED, record.version)

    def _refuse_other_hosts(self, request: PublishRequest) -> None:
        """Refuse mode=host outside the driver's namespace, since host agents execute files of that directory."""
        allowed = self._settings.host_namespace
        if request.mode == "host" and allowed and request.pod_namespace != allowed:
            raise InvalidRequestError(
                "volume_context[mode]",
                f"'host' is only for pods of the namespace {allowed!r}, and this pod is in "
                f"{request.pod_namespace!r}; use app",
            )

    def _refuse_second_target(self, attempt: PublishAttempt) -> None:
        record = attempt.record
        if record is None or record.target == attempt.request.target:
            return
        with self._mounts.open_target(TargetPath(record.target)) as other:
            if other.is_mounted():
                raise PublishedElsewhereError(f"volume {record.id} is published at {record.target!r} already")

    def _publish_host(self, attempt: PublishAttempt) -> PublishResult:
        request, target = attempt.request, attempt.target
        # Written first: the mount table does not show to which volume a bind mount belongs.
        self._volumes.put(self._record(request, VolumeState.WAITING, reason="mount started"))
        self._failpoint("intent recorded")
        try:
            host_volumes.bind(self._data, request, target)
        except OSError as error:
            reason = f"the host agent's directory can't be mounted: {view_mounter.describe_error(error, self._data)}"
            self.view_mounter.rollback(request.volume, target)
            self._volumes.put(self._record(request, VolumeState.WAITING, reason=reason))
            raise UnavailableError(f"volume {request.volume}: {reason}") from error
        self._failpoint("mounted")
        self._volumes.put(self._record(request, VolumeState.MOUNTED))
        return PublishResult(CallResult.HOST)

    def _publish_view(self, attempt: PublishAttempt) -> PublishResult:
        """Mount as soon as the version is in the store; else end before the deadline: failed attempt or empty view."""
        request = attempt.request
        with self.places.reserve(request.pod_namespace, request.pod_uid or request.pod_name) as place:
            limits = self._wait_and_mount(attempt, place)
        if isinstance(limits, PublishResult):
            return limits
        return self._fail_or_publish_empty(attempt, limits)

    def _wait_and_mount(self, attempt: PublishAttempt, place: Place) -> PublishResult | RetryLimits:
        """Mount as soon as the version is in the store; return the retry limits once the call has waited in vain."""
        request, failures = attempt.request, attempt.failures
        started = time.monotonic()
        longest_wait = self._longest_wait(attempt.caller)
        registered = False
        while True:
            generation = self.version_waiter.generation
            self._resolve_version(attempt)
            limits = mount_policy.retry_limits(request, attempt.desired)
            awaits_lease = False
            left = min(longest_wait - (time.monotonic() - started), limits.seconds_left(failures, self._now()))
            is_over = left <= 0 or bool(limits.exhausted_reason(failures, self._now()))
            # A call that came back has waited before, if only for a place to wait.
            waited = is_over or failures.have_lasted(self._settings.publish_wait_seconds, self._now())
            try:
                if done := self._mount_available(attempt, waited=waited):
                    return done
            except view_mounter.MountError as error:
                attempt.reason = str(error)
                return limits
            except view_mounter.VersionGoneError as error:
                attempt.reason = str(error)
            except StoreBusyError as error:
                attempt.reason, awaits_lease = str(error), True
            if attempt.call.cancelled:
                raise UnavailableError(
                    f"volume {request.volume}: the call was cancelled while it waited ({attempt.reason})"
                )
            if is_over:
                return limits
            if self._is_unknown(attempt) and not awaits_lease:
                return limits
            if refusal := place.take():
                self._refuse(attempt, refusal)
            if not registered:
                registered = True
                if not attempt.caller.add_callback(lambda: self.calls.cancel(request.volume, attempt.call)):
                    attempt.call.cancelled = True
                continue
            demand.mark(self._data, attempt.desired.version if attempt.desired is not None else Version(""))
            self.version_waiter.wait_for_change(generation, left, awaits_lease=awaits_lease)

    def _is_unknown(self, attempt: PublishAttempt) -> bool:
        """Return whether the DynaKube does not exist: there is nothing to wait for, and kubelet will ask again."""
        return attempt.desired is None and self._desired.is_unknown(attempt.request.dynakube)

    def _refuse(self, attempt: PublishAttempt, refusal: str) -> NoReturn:
        """Refuse a call that found no place to wait: no attempt is counted, but the mount timeout begins."""
        failures = attempt.failures.start_timeout(self._now())
        if failures != attempt.failures:
            reason = f"{refusal}; {attempt.reason}"
            self._volumes.put(self._record(attempt.request, VolumeState.WAITING, failures=failures, reason=reason))
        raise UnavailableError(f"volume {attempt.request.volume}: {refusal}; {attempt.reason}")

    def _longest_wait(self, caller: Caller) -> float:
        remaining = caller.time_remaining()
        longest = self._settings.publish_wait_seconds
        return longest if remaining is None else min(longest, remaining - ANSWER_SECONDS)

    def _fail_or_publish_empty(self, attempt: PublishAttempt, limits: RetryLimits) -> PublishResult:
        request, failures = attempt.request, attempt.failures
        if exhausted := limits.exhausted_reason(failures, self._now()):
            return self._publish_empty(attempt, f"{exhausted}; {attempt.reason}")
        failures = failures.increment(self._now())
        self._volumes.put(self._record(request, VolumeState.WAITING, failures=failures, reason=attempt.reason))
        raise AttemptFailedError(
            f"volume {request.volume}, {limits.describe_attempt(failures.attempts)}: {attempt.reason}"
        )

    def _resolve_version(self, attempt: PublishAttempt) -> None:
        """Set the desired state, and the version to mount or the reason why there is none.

        A mounted volume keeps its version. The store is read before the rows: the provisioner completes the rows of a
        version before it makes it visible, so rows that are read later name its config layer.
        """
        request, record = attempt.request, attempt.record
        before = self._desired.get_cached(request.dynakube)
        seen = before.version if before is not None and self._store.has(before.version) else ""
        desired = self._desired.get(request.dynakube)
        if desired is not None and (before is None or before.version != desired.version):
            seen = desired.version if self._store.has(desired.version) else ""
            desired = self._desired.get(request.dynakube)
        attempt.desired, attempt.version, attempt.reason = desired, None, ""
        if record is not None and record.state == VolumeState.MOUNTED and self._store.has(Version(record.version)):
            attempt.version = Version(record.version)
        elif desired is None:
            attempt.reason = f"DynaKube {request.dynakube!r} is not known on this node"
        elif not desired.version:
            attempt.reason = desired.condition or f"no version is known yet for DynaKube {request.dynakube!r}"
        elif desired.version != seen:
            attempt.reason = desired.condition or f"version {agent_version(desired.version)} is not in the store yet"
        else:
            if not desired.layer:
                copied = self._desired.get_copied(request.dynakube)
                if copied is not None and copied.version == desired.version:
                    attempt.desired = copied
            attempt.version = desired.version

    def _mount_available(self, attempt: PublishAttempt, *, waited: bool) -> PublishResult | None:
        """Mount the version, else the last good one if the policy allows it; None without either."""
        if attempt.version is not None:
            desired = attempt.desired or DesiredState(attempt.request.dynakube)
            self._mount(attempt, desired, attempt.version)
            return PublishResult(CallResult.MOUNTED, attempt.version)
        fallback = mount_policy.fallback_version(attempt.desired, self._store, waited=waited)
        if fallback is None:
            return None
        text = f"The pod starts with the last good agent version {agent_version(fallback.version)}: {attempt.reason}"
        self._mount(attempt, fallback, fallback.version, self._notice(attempt.request, LAST_GOOD_MOUNTED, text))
        return PublishResult(CallResult.LAST_GOOD, fallback.version, attempt.reason)

    def _mount(self, attempt: PublishAttempt, desired: DesiredState, version: Version, *notices: Notice) -> None:
        config = self.view_mounter.mount(attempt, desired, version)
        # Written after the response: after a crash in between, the mount table has all but the DynaKube's name.
        row = self._record(attempt.request, VolumeState.MOUNTED, config.tenant, version=version, layer=config.layer)
        self._volumes.put(row, *notices, later=True)
        if not attempt.caller.add_callback(self._volumes.write_soon):
            self._volumes.write_soon()
        self._failpoint("result recorded")

    def _publish_empty(self, attempt: PublishAttempt, reason: str) -> PublishResult:
        """Let the pod start unmonitored, and record a notice for an Event."""
        request = attempt.request
        try:
            attempt.target.create_empty(read_only=request.read_only)
        except OSError as error:
            reason = view_mounter.describe_error(error, self._data)
            raise UnavailableError(f"target {request.target} can't be created: {reason}") from error
        text = f"The pod starts without its agent: {reason}"
        # A timeout of the pod's own, shorter than the DynaKube's, proves nothing about the DynaKube.
        kind = "Normal" if mount_policy.is_impatient(request, attempt.desired) else "Warning"
        notice = self._notice(request, AGENT_NOT_MOUNTED, text, kind)
        previous = self._volumes.get(request.volume)
        notices = () if previous is not None and previous.state == VolumeState.EMPTY else (notice,)
        record = self._record(request, VolumeState.EMPTY, failures=attempt.failures, reason=reason)
        self._volumes.put(record, *notices)
        return PublishResult(CallResult.EMPTY, reason=reason)

    def _notice(self, request: PublishRequest, reason: str, message: str, kind: str = "Warning") -> Notice:
        return Notice(
            kind=kind,
            reason=reason,
            message=message,
            dynakube=request.dynakube,
            pod_name=request.pod_name,
            pod_namespace=request.pod_namespace,
            pod_uid=request.pod_uid,
            at=self._now(),
        )

    def _record(
        self,
        request: PublishRequest,
        state: VolumeState,
        tenant: str = "",
        *,
        version: str = "",
        layer: str = "",
        failures: Failures = Failures(),  # noqa: B008 - frozen
        reason: str = "",
    ) -> VolumeRecord:
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
            changed_at=self._now(),
        )

    # ---------------------------------------------------------------- unpublish

    def unpublish(self, volume: VolumeId, path: TargetPath) -> None:
        """Undo a publish in any state; unknown volumes are OK. `InternalError` changes nothing."""
        with (
            self.calls.hold(volume, "an unpublish", cancel_other=True),
            self.calls.hold(path, "an unpublish"),
            self._mounts.open_target(path) as target,
        ):
            record = self._volumes.get(volume)
            is_recorded = record is not None and record.target == path
            if not is_recorded and target.is_mounted() and not self._is_own_mount(target, volume):
                log.warning("foreign mount left in place", extra=logs.fields(volume=volume, target=path))
                return
            # For a volume that the database lost, the pod's files in an empty view are removed, too.
            is_ours = is_recorded or _CSI_TARGET.search(path) is not None
            target.unmount_and_remove(self._failpoint, trash_entry=self._data.trash_entry(volume) if is_ours else "")
            self._failpoint("target removed")
            if record is not None and record.target != path:
                return
            self.view_mounter.discard(volume)
            self._failpoint("upper discarded")
            self._volumes.drop(volume)

    def _is_own_mount(self, target: MountTarget, volume: VolumeId) -> bool:
        """Return whether a mount that the volume's row does not name is the volume's own.

        It is the volume's view, or a host agent's directory that no other volume has there.
        """
        top = mount_table.top_at(mount_table.read(), target.real_path())
        if top is not None and (owner := self.view_mounter.find_owner(top)) is not None:
            return owner == volume
        return host_volumes.find_owner(self._data, target) is not None and all(
            row.target != target.path for row in self._volumes.all()
        )
