"""NodePublishVolume.

The kernel is authoritative for mounts, the store for installed versions, the volumes table for requests and their
failures. The ordinary path never reads the whole mount table, so a publish costs the same on a node with five thousand
mounts as on an empty one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from oneagent.common.identifiers import Version, agent_version
from oneagent.common.injection import volume_attributes
from oneagent.common.injection.contract import AGENT_NOT_MOUNTED, LAST_GOOD_MOUNTED
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.desired_versions import DesiredState, DesiredStateReader
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRepository
from oneagent.csi_driver.server import host_volumes, mount_policy, view_mounter, volume_rows
from oneagent.csi_driver.server.call_result import CallResult
from oneagent.csi_driver.server.errors import AttemptFailedError, InvalidRequestError, UnavailableError
from oneagent.csi_driver.server.existing_mount import ExistingMounts
from oneagent.csi_driver.server.inflight import InFlightCalls
from oneagent.csi_driver.server.mount_policy import Failures, RetryLimits
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.publish_attempt import Caller, PublishAttempt, PublishResult
from oneagent.csi_driver.server.request_validation import PublishRequest
from oneagent.csi_driver.server.version_resolver import VersionResolver
from oneagent.csi_driver.server.version_waiter import AwaitedState, VersionWaiter
from oneagent.csi_driver.server.view_mounter import ViewMounter
from oneagent.csi_driver.server.waiting_places import Place, WaitingPlaces
from oneagent.csi_driver.store import AgentStore, StoreBusyError, demand

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
    """Publishes volumes. Thread-safe: any number of volumes at once."""

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
        self._now = now
        self._failpoint = failpoint
        self.view_mounter = ViewMounter(
            settings.node_id, data, store, mounts, keep_logs=settings.keep_logs, now=now, failpoint=failpoint
        )
        self.existing_mounts = ExistingMounts(data, mounts, volumes, self.view_mounter, now)
        self._version_resolver = VersionResolver(store, desired)
        self.version_waiter = VersionWaiter(data, store, desired)
        self.places = WaitingPlaces(settings.max_waiting)
        self.calls = InFlightCalls(self.version_waiter.wake)

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
            if target.is_mounted() and (done := self.existing_mounts.accept(attempt)):
                return done
            self.existing_mounts.refuse_second_target(attempt)
            match request.mode:
                case "host":
                    return self._publish_host(attempt)
                case "conf":
                    return self._publish_conf(attempt)
                case "app":
                    return self._publish_view(attempt)

    def _refuse_other_hosts(self, request: PublishRequest) -> None:
        """Refuse mode=host outside the driver's namespace, since host agents execute files of that directory."""
        allowed = self._settings.host_namespace
        if request.mode == "host" and allowed and request.pod_namespace != allowed:
            raise InvalidRequestError(
                "volume_context[mode]",
                f"'host' is only for pods of the namespace {allowed!r}, and this pod is in "
                f"{request.pod_namespace!r}; use app",
            )

    def _publish_host(self, attempt: PublishAttempt) -> PublishResult:
        request, target = attempt.request, attempt.target
        # Written first: the mount table does not show to which volume a bind mount belongs.
        self._record_waiting(request, "mount started")
        self._failpoint("intent recorded")
        try:
            host_volumes.bind(self._data, request, target)
        except OSError as error:
            reason = f"the host agent's directory can't be mounted: {view_mounter.describe_error(error, self._data)}"
            self.view_mounter.rollback(request.volume, target)
            self._record_waiting(request, reason)
            raise UnavailableError(f"volume {request.volume}: {reason}") from error
        self._failpoint("mounted")
        self._volumes.put(volume_rows.record(request, VolumeState.MOUNTED, self._now()))
        return PublishResult(CallResult.HOST)

    def _publish_conf(self, attempt: PublishAttempt) -> PublishResult:
        """Write the pod's files. They need neither a version nor the DynaKube on this node, so nothing is awaited."""
        request = attempt.request
        try:
            attempt.target.create_plain(self.view_mounter.pod_files(request, None))
        except OSError as error:
            reason = view_mounter.describe_error(error, self._data)
            raise UnavailableError(f"volume {request.volume}: the pod's files can't be written: {reason}") from error
        self._failpoint("config written")
        self._volumes.put(volume_rows.record(request, VolumeState.WRITTEN, self._now()))
        return PublishResult(CallResult.CONF)

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
        seen: AwaitedState | None = None
        while True:
            if seen is not None:
                seen = self._look(attempt)
            self._version_resolver.resolve(attempt)
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
            if self._version_resolver.is_unknown(attempt) and not awaits_lease:
                return limits
            if refusal := place.take():
                self._refuse(attempt, refusal)
            if seen is None:
                self._record_wait(attempt)
                seen = self._look(attempt)
                if not attempt.caller.add_callback(lambda: self.calls.cancel(request.volume, attempt.call)):
                    attempt.call.cancelled = True
                continue
            version = attempt.desired.version if attempt.desired is not None else Version("")
            demand.mark(self._data, version or demand.of_dynakube(request.dynakube))
            self.version_waiter.wait_for_change(seen, left, attempt.call, awaits_lease=awaits_lease)

    def _record_wait(self, attempt: PublishAttempt) -> None:
        """Record what a first call waits for, so that it can be asked for while kubelet has no answer yet.

        In the background: a lost row of a wait is written by its first failure.
        """
        if attempt.record is None:
            self._record_waiting(attempt.request, attempt.reason, later=True)
            self._volumes.write_soon()

    def _look(self, attempt: PublishAttempt) -> AwaitedState:
        mounted = Version(attempt.record.version) if attempt.record is not None else Version("")
        return self.version_waiter.look(attempt.request.dynakube, mounted)

    def _refuse(self, attempt: PublishAttempt, refusal: str) -> NoReturn:
        """Refuse a call that found no place to wait: no attempt is counted, but the mount timeout begins."""
        failures = attempt.failures.start_timeout(self._now())
        if failures != attempt.failures:
            reason = f"{refusal}; {attempt.reason}"
            self._record_waiting(attempt.request, reason, failures)
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
        if request.never_empty:
            attempt.reason += f" ({volume_attributes.FAILURE_POLICY} fail: the pod starts once its agent is mounted)"
        self._record_waiting(request, attempt.reason, failures)
        raise AttemptFailedError(
            f"volume {request.volume}, {limits.describe_attempt(failures.attempts)}: {attempt.reason}"
        )

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
        self._mount(
            attempt,
            fallback,
            fallback.version,
            volume_rows.notice(attempt.request, LAST_GOOD_MOUNTED, text, self._now()),
        )
        return PublishResult(CallResult.LAST_GOOD, fallback.version, attempt.reason)

    def _mount(self, attempt: PublishAttempt, desired: DesiredState, version: Version, *notices: Notice) -> None:
        config = self.view_mounter.mount(attempt, desired, version)
        # Written after the response: after a crash in between, the mount table has all but the DynaKube's name.
        row = volume_rows.record(
            attempt.request,
            VolumeState.MOUNTED,
            self._now(),
            tenant=config.tenant,
            version=version,
            layer=config.layer,
        )
        self._volumes.put(row, *notices, later=True)
        if not attempt.caller.add_callback(self._volumes.write_soon):
            self._volumes.write_soon()
        self._failpoint("result recorded")

    def _publish_empty(self, attempt: PublishAttempt, reason: str) -> PublishResult:
        """Let the pod start unmonitored, and record a notice for an Event."""
        request = attempt.request
        try:
            files = self.view_mounter.pod_files(request, attempt.desired)
            attempt.target.create_empty(files, read_only=request.read_only, user_namespace=request.user_namespace)
        except OSError as error:
            reason = view_mounter.describe_error(error, self._data)
            raise UnavailableError(f"target {request.target} can't be created: {reason}") from error
        text = f"The pod starts without its agent: {reason}"
        # A timeout of the pod's own, shorter than the DynaKube's, proves nothing about the DynaKube.
        kind = "Normal" if mount_policy.is_impatient(request, attempt.desired) else "Warning"
        notice = volume_rows.notice(request, AGENT_NOT_MOUNTED, text, self._now(), kind=kind)
        previous = self._volumes.get(request.volume)
        notices = () if previous is not None and previous.state == VolumeState.EMPTY else (notice,)
        record = volume_rows.record(request, VolumeState.EMPTY, self._now(), failures=attempt.failures, reason=reason)
        self._volumes.put(record, *notices)
        return PublishResult(CallResult.EMPTY, reason=reason)

    def _record_waiting(
        self,
        request: PublishRequest,
        reason: str,
        failures: Failures = Failures(),  # noqa: B008 - frozen
        *,
        later: bool = False,
    ) -> None:
        row = volume_rows.record(request, VolumeState.WAITING, self._now(), failures=failures, reason=reason)
        self._volumes.put(row, later=later)
