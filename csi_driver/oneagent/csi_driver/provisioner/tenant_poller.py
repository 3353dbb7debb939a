"""When tenants and registries are asked what is wanted: seldom, each DynaKube in a task of its own.

A question is repeated at the DynaKube's own interval, sooner after a failure, and at once when the DynaKube says
something else about whom to ask. Until the first answer there are no facts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from oneagent.common import backoff, dynakube
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.oci import layout
from oneagent.common.oci.hosts import Registries
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.provisioner import tenants
from oneagent.csi_driver.provisioner.package_sources import origins
from oneagent.csi_driver.provisioner.signature_cache import SignatureCache
from oneagent.csi_driver.provisioner.tenants import TenantState

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 5.0


@dataclass(slots=True)
class _PollState:
    """One DynaKube's questions."""

    facts: TenantState | None = None
    about: tuple[object, ...] = ()
    image: str = ""
    """What showed of the image without asking, when it was asked about."""
    running: bool = False
    failures: int = 0
    next_at: float = 0.0


class TenantPoller:
    """To be used under the caller's lock; `wake` is called without it whenever there is an answer."""

    def __init__(
        self,
        source: dynakube_sources.DynaKubeSource,
        registries: Registries,
        approved: SignatureCache,
        wake: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._source = source
        self._registries = registries
        self._approved = approved
        self._wake = wake
        self._now = now
        self._asking: dict[DynaKubeName, _PollState] = {}
        self._tasks = ThreadPoolExecutor(4, thread_name_prefix="ask")

    def facts(self, name: DynaKubeName) -> TenantState | None:
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
        asking = self._asking.setdefault(kube.name, _PollState())
        about, image = origins.settings(kube), _image_now(kube)
        due = about != asking.about or time.monotonic() >= asking.next_at
        if asking.running or not (due or image != asking.image):
            return
        if about != asking.about:
            asking.about, asking.failures = about, 0
            # Another tenant, or host group, numbers its revisions anew; till it answers the row stays as it is.
            asking.facts = None
        asking.image = image
        asking.running = True
        self._tasks.submit(self._ask, kube, asking, due)

    def _ask(self, kube: dynakube.DynaKube, asking: _PollState, due: bool) -> None:
        try:
            if due or asking.facts is None:
                self._take(kube, asking, self._image(kube, tenants.ask(kube, self._source, asking.facts, self._now)))
                return
            # Another image alone is no reason to ask the tenant, on all nodes at once.
            facts = self._image(kube, replace(asking.facts, problem="", retry_after=None))
            if facts.problem:
                self._take(kube, asking, facts)
            else:
                asking.facts = replace(facts, problem=asking.facts.problem, retry_after=asking.facts.retry_after)
        except Exception:
            log.exception("asking the tenant failed")
            asking.next_at = time.monotonic() + kube.poll_seconds
        finally:
            asking.running = False
            self._wake()

    def _image(self, kube: dynakube.DynaKube, facts: TenantState) -> TenantState:
        image = kube.image or kube.image_folder
        if image is None or (image.digest and not kube.image_key):
            return facts
        return origins.resolved(kube, image, facts, self._source, self._registries, self._approved)

    def _take(self, kube: dynakube.DynaKube, asking: _PollState, facts: TenantState) -> None:
        """Keep an answer, and when to ask again."""
        asking.facts = facts
        asking.failures = asking.failures + 1 if facts.problem else 0
        pause = backoff.jittered(kube.poll_seconds)
        if facts.problem:
            pause = backoff.exponential(asking.failures, _FIRST_PAUSE, kube.poll_seconds)
        asking.next_at = time.monotonic() + backoff.at_least(pause, facts.retry_after)


def _image_now(kube: dynakube.DynaKube) -> str:
    """What is another one as soon as the image has to be looked at again.

    Of a folder, whether its index has changed; else whose signature is to be asked for, if the DynaKube wants signed
    images and says which.
    """
    if kube.image_folder is not None:
        return layout.index_fingerprint(kube.image_folder.path)
    return kube.image.digest if kube.image_key and kube.image is not None else ""
