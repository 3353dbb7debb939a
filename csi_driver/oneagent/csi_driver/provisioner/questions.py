"""When tenants and registries are asked what is wanted: seldom, each DynaKube in a task of its own.

A question is repeated at the DynaKube's own interval, sooner after a failure, and at once when the DynaKube says
something else about whom to ask. Until the first answer there are no facts.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from oneagent.common import dynakube, pauses
from oneagent.common.names import DynaKubeName
from oneagent.common.oci.registries import Registries
from oneagent.csi_driver import sources
from oneagent.csi_driver.provisioner import origins, tenants
from oneagent.csi_driver.provisioner.tenants import Facts

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 5.0


@dataclass(slots=True)
class _Asking:
    """One DynaKube's questions."""

    facts: Facts | None = None
    about: tuple[object, ...] = ()
    running: bool = False
    failures: int = 0
    next_at: float = 0.0


class Questions:
    """To be used under the caller's lock; `wake` is called without it whenever there is an answer."""

    def __init__(
        self, source: sources.Source, registries: Registries, wake: Callable[[], None], now: Callable[[], float]
    ) -> None:
        self._source = source
        self._registries = registries
        self._wake = wake
        self._now = now
        self._asking: dict[DynaKubeName, _Asking] = {}
        self._tasks = ThreadPoolExecutor(4, thread_name_prefix="ask")

    def facts(self, name: DynaKubeName) -> Facts | None:
        """The last answers; None before the first."""
        asking = self._asking.get(name)
        return asking.facts if asking else None

    def keep(self, names: Container[DynaKubeName]) -> None:
        """Forget all others."""
        for name in [name for name in self._asking if name not in names]:
            del self._asking[name]

    def stop(self) -> None:
        self._tasks.shutdown(wait=False, cancel_futures=True)

    def ask_if_due(self, kube: dynakube.DynaKube) -> None:
        asking = self._asking.setdefault(kube.name, _Asking())
        about = origins.settings(kube)
        if asking.running or (about == asking.about and time.monotonic() < asking.next_at):
            return
        if about != asking.about:
            asking.about, asking.failures = about, 0
            # Another tenant, or host group, numbers its revisions anew; till it answers the row stays as it is.
            asking.facts = None
        asking.running = True
        self._tasks.submit(self._ask, kube, asking)

    def _ask(self, kube: dynakube.DynaKube, asking: _Asking) -> None:
        try:
            facts = tenants.ask(kube, self._source, asking.facts, self._now)
            if kube.image is not None and not kube.image.digest:
                facts = origins.resolved(kube, kube.image, facts, self._source, self._registries)
            asking.facts = facts
            asking.failures = asking.failures + 1 if facts.problem else 0
            pause = kube.poll_seconds
            if facts.problem:
                pause = min(pause, _FIRST_PAUSE * 2 ** min(asking.failures - 1, 16))
            asking.next_at = time.monotonic() + pauses.heeding(pause * random.uniform(0.8, 1.2), facts.retry_after)
        except Exception:
            log.exception("asking the tenant failed")
            asking.next_at = time.monotonic() + kube.poll_seconds
        finally:
            asking.running = False
            self._wake()
