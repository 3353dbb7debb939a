"""The way of a publish and its mirror.

What is mounted is asked of the kernel, what is installed of the store, what was asked for and how often it
failed of the volume book. Nothing here reads the whole mount table on the ordinary way, so that a publish costs
the same on a node with five thousand mounts as on an empty one.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from oneagent.common import logs
from oneagent.common.identifiers import AGENT_NOT_MOUNTED, LAST_GOOD_MOUNTED, Version
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.metadata.desired_versions import DesiredState, DesiredStateReader
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import Notice, VolumeRecord, VolumeRepository
from oneagent.csi_driver.server import host_volumes, mount_limits, mount_policy, view_mounter
from oneagent.csi_driver.server.errors import (
    AlreadyExistsError,
    AttemptFailedError,
    InvalidRequestError,
    PublishedElsewhereError,
    UnavailableError,
)
from oneagent.csi_driver.server.inflight import Call, InFlightCalls
from oneagent.csi_driver.server.mount_limits import Failures
from oneagent.csi_driver.server.overlay import MountTarget, OverlayMounter
from oneagent.csi_driver.server.request_validation import Publish
from oneagent.csi_driver.server.version_waiter import VersionWaiter
from oneagent.csi_driver.server.view_mounter import ViewMounter
from oneagent.csi_driver.store import AgentStore, demand

log = logging.getLogger(__name__)

_CSI_TARGET = re.compile(r"/volumes/kubernetes\.io~csi/[^/]+/mount$")
"""What kubelet gives as the target path of every CSI volume."""

ANSWER_SECONDS = 1.0
"""How long before its caller's deadline a waiting call answers."""


class Context(Protocol):
    """What a call knows of its caller."""

    def time_remaining(self) -> float | None: ...

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have something called when the caller is gone; False if it is gone already."""
        ...


@dataclass(frozen=True, slots=True)
class PublishResult:
    """How a publish ended, and with which version: `mounted`, `last_good`, `already`, `empty` or `host`."""

    result: str
    version: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """`publish_wait_seconds`: how long one call waits for its version before it counts as a failed attempt.

    `most_waiting`: so many calls wait at once; more are told to come back, without counting against them.
    `host_namespace`: only its pods get the host agent's folder, which is the same for all of them; empty for any pod.
    """

    node_id: str
    publish_wait_seconds: float = 60.0
    most_waiting: int = 400
    keep_logs: bool = False
    host_namespace: str = ""


class Publisher:
    """Publishes and unpublishes volumes. Thread-safe: any number of volumes at once."""

    def __init__(
        self,
        settings: Settings,
        folder: DataDir,
        store: AgentStore,
        mounts: OverlayMounter,
        volumes: VolumeRepository,
        wanted: DesiredStateReader,
        *,
        now: Callable[[], float] = time.time,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._store = store
        self._views = mounts
        self._volumes = volumes
        self._wanted = wanted
        self._now = now
        self._failpoint = failpoint
        self.view_mounter = ViewMounter(
            settings.node_id, folder, store, mounts, keep_logs=settings.keep_logs, now=now, failpoint=failpoint
        )
        self.version_waiter = VersionWaiter(str(folder.agents), wanted.refresh)
        self.calls = InFlightCalls(self.version_waiter.wake)

    # ------------------------------------------------------------------ publish

    def publish(self, request: Publish, context: Context) -> PublishResult:
        """Mount what the volume shall have; a `DriverError` if that is not possible now."""
        self._refuse_other_hosts(request)
        with (
            self.calls.hold(request.volume, "a publish") as call,
            self.calls.hold(request.target, "a publish"),
            self._views.at(request.target) as target,
        ):
            if not target.reachable:
                raise InvalidRequestError("target_path", f"the parent folder of {request.target!r} does not exist")
            record = self._volumes.get(request.volume)
            if target.mounted():
                return self._already(request, record, target)
            self._refuse_second_target(request, record)
            if request.mode == "host":
                return self._bind_host(request, target)
            return self._view(request, record, target, call, context)

    def _already(self, request: Publish, record: VolumeRecord | None, target: MountTarget) -> PublishResult:
        """Mounts never stack: what is there is either this volume's, as it was asked for, or a conflict."""
        top = mount_table.top_at(mount_table.read(), target.real_path())
        if record is None and request.mode == "host" and host_volumes.owner(self._folder, target) == request.dynakube:
            # The database was lost. At the start only views are found in the mount table again.
            record = self._volumes.put(self._record(request, VolumeState.MOUNTED))
        if record is None or top is None or record.target != request.target:
            raise AlreadyExistsError(f"target_path: something else is mounted at {request.target!r}")
        # A row that was found in the mount table after the database was lost knows no DynaKube.
        same_dynakube = record.dynakube in {"", request.dynakube}
        if not (same_dynakube and record.mode == request.mode and record.read_only == request.read_only):
            raise AlreadyExistsError(
                f"volume {request.volume} is published at {request.target!r} with mode {record.mode!r}, DynaKube "
                f"{record.dynakube!r} and readonly={record.read_only}; unpublish it first"
            )
        if request.mode == "app" and self.view_mounter.owner(top) != request.volume:
            raise AlreadyExistsError(f"target_path: another volume's view is mounted at {request.target!r}")
        if request.mode == "host" and host_volumes.owner(self._folder, target) != request.dynakube:
            raise AlreadyExistsError(f"target_path: something else is mounted at {request.target!r}")
        if not record.dynakube:
            row = (VolumeState.MOUNTED, record.tenant)
            self._volumes.put(self._record(request, *row, version=record.version, layer=record.layer))
        return PublishResult("already", record.version)

    def _refuse_other_hosts(self, request: Publish) -> None:
        """Whoever may create a pod may ask for any mode; what host agents run from is not for everybody to write."""
        allowed = self._settings.host_namespace
        if request.mode == "host" and allowed and request.pod_namespace != allowed:
            raise InvalidRequestError(
                "volume_context[mode]",
                f"'host' is only for pods of the namespace {allowed!r}, and this one is of {request.pod_namespace!r}; "
                "use app",
            )

    def _refuse_second_target(self, request: Publish, record: VolumeRecord | None) -> None:
        if record is None or record.target == request.target:
            return
        with self._views.at(TargetPath(record.target)) as other:
            if other.mounted():
                raise PublishedElsewhereError(f"volume {request.volume} is published at {record.target!r} already")

    def _bind_host(self, request: Publish, target: MountTarget) -> PublishResult:
        # Written first: the mount table can't tell which volume a bind mount answers.
        self._volumes.put(self._record(request, VolumeState.WAITING, reason="being mounted"))
        self._failpoint("intent recorded")
        try:
            host_volumes.bind(self._folder, request, target)
        except OSError as error:
            reason = f"the host agent's folder can't be mounted: {view_mounter.why(error)}"
            self.view_mounter.rollback(request.volume, target)
            self._volumes.put(self._record(request, VolumeState.WAITING, reason=reason))
            raise UnavailableError(f"volume {request.volume}: {reason}") from error
        self._failpoint("mounted")
        self._volumes.put(self._record(request, VolumeState.MOUNTED))
        return PublishResult("host")

    def _view(
        self, request: Publish, record: VolumeRecord | None, target: MountTarget, call: Call, context: Context
    ) -> PublishResult:
        """Mount as soon as the version is there; give up in time, by a failed attempt or an empty view."""
        started = time.monotonic()
        remaining = context.time_remaining()
        patience = self._settings.publish_wait_seconds
        if remaining is not None:
            patience = min(patience, remaining - ANSWER_SECONDS)
        failures = _failures(record)
        listening = False
        while True:
            turn = self.version_waiter.turn
            wanted, version, reason = self._look(record, request)
            limits = mount_policy.limits(request, wanted)
            try:
                if done := self._mount_present(request, record, wanted, version, reason, target, context):
                    return done
            except view_mounter.MountError as error:
                reason = str(error)
                break
            except view_mounter.VersionGoneError as error:
                reason = str(error)
            spent = time.monotonic() - started
            left = min(patience - spent, mount_limits.seconds_left(failures, limits, self._now()))
            if call.cancelled:
                raise UnavailableError(f"volume {request.volume}: the call was given up while it waited ({reason})")
            if left <= 0 or mount_limits.exhausted(failures, limits, self._now()):
                break
            if self.version_waiter.waiting >= self._settings.most_waiting:
                raise UnavailableError(f"{self.version_waiter.waiting} other volumes wait already; {reason}")
            if not listening:
                listening = True
                if not context.add_callback(lambda: self.calls.cancel(request.volume, call)):
                    call.cancelled = True
                continue
            demand.mark(self._folder, wanted.version if wanted is not None else Version(""))
            self.version_waiter.wait(turn, left)
        spent_out = mount_limits.exhausted(failures, limits, self._now())
        if spent_out:
            return self._empty(request, failures, target, f"{spent_out}; {reason}")
        failed = failures.one_more(self._now())
        self._volumes.put(self._record(request, VolumeState.WAITING, failures=failed, reason=reason))
        raise AttemptFailedError(f"volume {request.volume}, {limits.counted(failed.attempts)}: {reason}")

    def _look(self, record: VolumeRecord | None, request: Publish) -> tuple[DesiredState | None, Version | None, str]:
        """What is wanted; the version to mount, if it is in the store, else why not. A volume keeps what it once had.

        The store is looked at before the rows are read. The provisioner completes the rows of a version before it
        makes it visible, so rows that are read after the version was seen name its config layer.
        """
        before = self._wanted.known(request.dynakube)
        seen = before.version if before is not None and self._store.has(before.version) else ""
        wanted = self._wanted.get(request.dynakube)
        if wanted is not None and (before is None or before.version != wanted.version):
            seen = wanted.version if self._store.has(wanted.version) else ""
            wanted = self._wanted.get(request.dynakube)
        if record is not None and record.state == VolumeState.MOUNTED and self._store.has(Version(record.version)):
            return wanted, Version(record.version), ""
        if wanted is None:
            return None, None, f"DynaKube {request.dynakube!r} is not known on this node"
        if not wanted.version:
            return wanted, None, wanted.condition or f"no version is known yet for DynaKube {request.dynakube!r}"
        if wanted.version != seen:
            return wanted, None, wanted.condition or f"version {wanted.version} is not in the store yet"
        if not wanted.layer:
            copied = self._wanted.copied(request.dynakube)
            wanted = copied if copied is not None and copied.version == wanted.version else wanted
        return wanted, wanted.version, ""

    def _mount(
        self,
        request: Publish,
        record: VolumeRecord | None,
        wanted: DesiredState | None,
        version: Version,
        target: MountTarget,
        context: Context,
        *notices: Notice,
    ) -> PublishResult:
        wanted = wanted or DesiredState(request.dynakube)
        config = self.view_mounter.mount(request, record, wanted, version, target)
        # Written after the answer: should we crash before, the mount table tells the same, but for the DynaKube's name.
        row = self._record(request, VolumeState.MOUNTED, config.tenant, version=version, layer=config.layer)
        self._volumes.put(row, *notices, later=True)
        if not context.add_callback(self._volumes.write_soon):
            self._volumes.write_soon()
        self._failpoint("result recorded")
        return PublishResult("mounted", version)

    def _mount_present(
        self,
        request: Publish,
        record: VolumeRecord | None,
        wanted: DesiredState | None,
        version: Version | None,
        reason: str,
        target: MountTarget,
        context: Context,
    ) -> PublishResult | None:
        """Mount the version, else the last good one if that is the policy, and say so; None if neither is there."""
        if version is not None:
            return self._mount(request, record, wanted, version, target, context)
        good = mount_policy.instead(wanted, self._store)
        if good is None:
            return None
        text = f"The pod starts with the last good agent version {good.version}: {reason}"
        notice = self._notice(request, LAST_GOOD_MOUNTED, text)
        self._mount(request, record, good, good.version, target, context, notice)
        return PublishResult("last_good", good.version, reason)

    def _empty(self, request: Publish, failures: Failures, target: MountTarget, reason: str) -> PublishResult:
        """Let the pod start unmonitored, and say so."""
        try:
            target.make_empty(read_only=request.read_only)
        except OSError as error:
            raise UnavailableError(f"target {request.target} can't be made: {error.strerror}") from error
        notice = self._notice(request, AGENT_NOT_MOUNTED, f"The pod starts without its agent: {reason}")
        known = self._volumes.get(request.volume)
        notices = () if known is not None and known.state == VolumeState.EMPTY else (notice,)
        record = self._record(request, VolumeState.EMPTY, failures=failures, reason=reason)
        self._volumes.put(record, *notices)
        return PublishResult("empty", reason=reason)

    def _notice(self, request: Publish, reason: str, message: str) -> Notice:
        return Notice(
            kind="Warning",
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
        request: Publish,
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
        """Undo a publish, whatever became of it; unknown volumes are fine. `InternalError` leaves all as it was."""
        with (
            self.calls.hold(volume, "an unpublish", cancel_other=True),
            self.calls.hold(path, "an unpublish"),
            self._views.at(path) as target,
        ):
            record = self._volumes.get(volume)
            known = record is not None and record.target == path
            if not known and target.mounted() and not self._belongs(target, volume):
                log.warning("leaving a mount alone that is not ours", extra=logs.facts(volume=volume, target=path))
                return
            # Of a volume that the database lost, what its pod wrote into an empty view has to go too.
            target.unmount_and_remove(self._failpoint, leftovers=known or _CSI_TARGET.search(path) is not None)
            self._failpoint("target removed")
            if record is not None and record.target != path:
                return
            self.view_mounter.discard_volume(volume)
            self._failpoint("upper discarded")
            self._volumes.drop(volume)

    def _belongs(self, target: MountTarget, volume: VolumeId) -> bool:
        """Whether a mount that the volume's row does not tell of is its own all the same.

        It is if it is the volume's view, or a host agent's folder that no other volume has there.
        """
        top = mount_table.top_at(mount_table.read(), target.real_path())
        if top is not None and (owner := self.view_mounter.owner(top)) is not None:
            return owner == volume
        return host_volumes.owner(self._folder, target) is not None and all(
            row.target != target.path for row in self._volumes.all()
        )


def _failures(record: VolumeRecord | None) -> Failures:
    return Failures(record.attempts, record.first_failed_at) if record is not None else Failures()
