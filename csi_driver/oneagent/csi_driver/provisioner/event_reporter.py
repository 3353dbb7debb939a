"""Events of this node: installed and failed versions, and the notices that the server wrote into the metadata.

Events go over the network, and there may be one for each pod of the node, so a thread of their own sends them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from oneagent.common import dynakube, logs
from oneagent.common.identifiers import DynaKubeName, Version, agent_version
from oneagent.common.injection import contract
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState, VersionRecord
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.metadata.volumes import Notice

log = logging.getLogger(__name__)

_READY = f"{VersionState.READY} "
"""A version that is stored at the start gets no Event."""


class EventReporter:
    """Call it from the loop's thread, except for `report_corrupt`. No method blocks."""

    def __init__(self, source: dynakube_sources.DynaKubeSource, state: ProvisionerState) -> None:
        self._source = source
        self._state = state
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._notices: Future[None] | None = None
        self._reported: dict[tuple[str, Version], str] = {}
        self._refused: dict[str, str] = {}

    def forward_notices(self, dynakubes: Mapping[DynaKubeName, dynakube.DynaKube]) -> None:
        """Send the server's new notices, unless the last ones are still being sent; `dynakubes` are all there are."""
        if self._notices is None or self._notices.done():
            self._notices = self._thread.submit(self._report_notices, dynakubes)

    def expect_version(self, target: dynakube.DynaKube, version: Version) -> None:
        """Expect a version that is not in the store: its arrival gets an Event, however quick it is."""
        if self._reported.get((target.name, version), _READY) == _READY:
            self._reported[target.name, version] = ""

    def report_version(self, target: dynakube.DynaKube, record: VersionRecord) -> None:
        """Send an Event when a DynaKube's version was installed, or failed."""
        key, status = (target.name, record.version), f"{record.state} {record.message}"
        if self._reported.get(key, _READY) == status:
            return
        self._reported[key] = status
        if record.state == VersionState.READY:
            message = f"Installed agent version {agent_version(record.version)}"
            self._thread.submit(self._source.event, target, "Normal", "InstallAgentVersion", message)
        elif record.state == VersionState.FAILED:
            message = f"Agent version {agent_version(record.version)}: {record.message}"
            self._thread.submit(self._source.event, target, "Warning", "FailedInstallAgentVersion", message)

    def report_corrupt(self, target: dynakube.DynaKube, version: Version, message: str) -> None:
        """Send an Event when a DynaKube's version was corrupt and removed. May be called from any thread."""
        text = (
            f"Agent version {agent_version(version)} was corrupted on this node: {message}. It is installed again; "
            "pods that were started before have the corrupt files until they are restarted"
        )
        self._thread.submit(self._source.event, target, "Warning", "CorruptAgentVersion", text)

    def report_refusal(self, target: dynakube.DynaKube, reason: str) -> None:
        """Send an Event when a DynaKube's image is refused because of its signature; none if `reason` is empty."""
        if self._refused.get(target.name, "") == reason:
            return
        self._refused[target.name] = reason
        if reason:
            self._thread.submit(self._source.event, target, "Warning", "RefusedAgentImage", reason)

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _report_notices(self, dynakubes: Mapping[DynaKubeName, dynakube.DynaKube]) -> None:
        try:
            with self._state.notices() as notices:
                for notice in notices:
                    self._report_notice(notice, dynakubes.get(DynaKubeName(notice.dynakube)))
        except database.DatabaseUnavailableError as error:
            log.debug("notices not read", extra=logs.fields(error=error))
        except Exception:
            log.exception("notices not sent")

    def _report_notice(self, notice: Notice, target: dynakube.DynaKube | None) -> None:
        """Send the Event of a pod, for its owner, and one of its DynaKube, which is what the webhook believes."""
        pod = dynakube_sources.PodReference(notice.pod_namespace, notice.pod_name, notice.pod_uid)
        kind: dynakube_sources.Kind = "Normal" if notice.kind == "Normal" else "Warning"
        self._source.event(pod, kind, notice.reason, notice.message)
        if target is not None and kind == "Warning" and notice.reason == contract.AGENT_NOT_MOUNTED:
            message = f"Pod {pod.namespace}/{pod.name} has no agent; its Event {notice.reason} has the cause"
            self._source.event(target, kind, contract.POD_WITHOUT_AGENT, message, related=pod)
