"""Events of this node's pods: the notices that the server wrote into the metadata.

Events about DynaKubes are written by the operator, from the reports of all nodes. Events go over the network, and
there may be one for each pod of the node, so a thread of their own sends them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from oneagent.common import dynakube, logs
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.injection import contract
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.metadata import database
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.metadata.volumes import Notice

log = logging.getLogger(__name__)


class EventReporter:
    """Call it from the loop's thread. No method blocks."""

    def __init__(self, source: dynakube_sources.DynaKubeSource, state: ProvisionerState) -> None:
        self._source = source
        self._state = state
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._notices: Future[None] | None = None

    def forward_notices(self, dynakubes: Mapping[DynaKubeName, dynakube.DynaKube]) -> None:
        """Send the server's new notices, unless the last ones are still being sent; `dynakubes` are all there are."""
        if self._notices is None or self._notices.done():
            self._notices = self._thread.submit(self._report_notices, dynakubes)

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
