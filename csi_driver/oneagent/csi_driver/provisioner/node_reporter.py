"""Reports of this node for the operator: the state of each DynaKube's version.

Thousands of nodes see the same change at the same time, so a write waits a random time of up to `jitter_seconds`, and
so long passes between two writes. Progress, and another reason for the same failure, wait for minutes: most are
outdated by then. A failure remains one until its version is there, so a version that fails again and again on every
node costs one write a node.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from oneagent.common import backoff, logs, node_lease
from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import Version, agent_version
from oneagent.common.kubernetes import errors
from oneagent.common.node_lease import Corruption, DynaKubeReport, NodeReport
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.states import VersionState

log = logging.getLogger(__name__)

_DETAIL_SECONDS: Final = 300.0
"""Delay of a change that is no new state."""
_FIRST_RETRY_SECONDS: Final = 10.0
_LONGEST_RETRY_SECONDS: Final = 900.0


class NodeReporter:
    """Call it from the loop's thread, except for `add_corruption`. No method blocks."""

    def __init__(
        self,
        source: dynakube_sources.DynaKubeSource,
        jitter_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._jitter, self._clock = source, jitter_seconds, clock
        self._failed: dict[str, DynaKubeReport] = {}
        """The last failure of each DynaKube's version, until it is there."""
        self._corruptions: tuple[Corruption, ...] = ()
        self._written: NodeReport | None = None
        self._planned: NodeReport | None = None
        """The present state, for which the next write is planned."""
        self._write_at = self._refresh_at = 0.0
        self._last_at = float("-inf")
        self._failures = 0
        self._writing = False

    def describe(
        self, dynakube: DynaKube, row: DesiredState, record: VersionRecord | None, refusal: str
    ) -> DynaKubeReport:
        """Return the report of a DynaKube."""
        version = agent_version(row.version)
        if refusal:
            return DynaKubeReport(dynakube.name, version, "refused", refusal)
        if record is not None and record.state == VersionState.READY:
            self._failed.pop(dynakube.name, None)
            return DynaKubeReport(dynakube.name, version, "ready")
        is_retry = record is not None and record.state in (VersionState.DOWNLOADING, VersionState.UNPACKING)
        if record is not None and (record.state == VersionState.FAILED or (is_retry and record.message)):
            self._failed[dynakube.name] = DynaKubeReport(dynakube.name, version, "failed", record.message)
        failed = self._failed.get(dynakube.name)
        if failed is not None and failed.version == version:
            return failed
        return DynaKubeReport(dynakube.name, version, "pending", row.condition)

    def add_corruption(self, version: Version, message: str) -> None:
        """Report a version that was corrupt and removed. May be called from any thread."""
        found = Corruption(agent_version(version), int(time.time()), message)
        self._corruptions = (*self._corruptions, found)[-10:]

    def update(self, dynakubes: Iterable[DynaKubeReport]) -> None:
        """Set the present state, and write it when its time has come."""
        report = NodeReport(tuple(sorted(dynakubes, key=lambda kube: kube.name)), self._corruptions).bounded()
        now = self._clock()
        if self._writing:
            return
        if report != self._planned:
            planned_at = self._plan(report, now)
            is_planned = self._planned != self._written != report
            # Another change does not put off a planned write.
            self._write_at = min(self._write_at, planned_at) if is_planned else planned_at
            self._planned = report
        if now >= self._write_at:
            self._writing = True
            threading.Thread(target=self._write, args=(report,), name="node-report", daemon=True).start()

    def _plan(self, report: NodeReport, now: float) -> float:
        """Return the time of the report's write."""
        if report == self._written:
            return self._refresh_at
        if self._written is not None and _is_detail(self._written, report):
            return min(now + backoff.jittered(_DETAIL_SECONDS), self._refresh_at)
        return max(now + random.uniform(0.0, self._jitter), self._last_at + self._jitter)

    def _write(self, report: NodeReport) -> None:
        try:
            self._source.report(report)
            self._written, self._failures = report, 0
            self._last_at = self._clock()
            self._write_at = self._refresh_at = self._last_at + backoff.jittered(node_lease.REFRESH_SECONDS)
        except errors.ApiError as error:
            self._failures += 1
            pause = backoff.exponential(self._failures, _FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS)
            self._write_at = self._clock() + pause
            log.warning("node report not written", extra=logs.fields(error=error, retry_seconds=round(pause)))
        except Exception:
            self._write_at = self._clock() + _LONGEST_RETRY_SECONDS
            log.exception("node report not written")
        finally:
            self._writing = False


def _is_detail(before: NodeReport, now: NodeReport) -> bool:
    """Return True if no state differs, or only progress does."""
    known = {kube.name: kube for kube in before.dynakubes}
    if before.corruptions != now.corruptions or known.keys() - {kube.name for kube in now.dynakubes}:
        return False
    return all(
        kube.state == "pending"
        or (kube.name in known and (known[kube.name].version, known[kube.name].state) == (kube.version, kube.state))
        for kube in now.dynakubes
    )
