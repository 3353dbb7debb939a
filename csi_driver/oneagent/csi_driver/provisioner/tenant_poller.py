"""The schedule of polls: each DynaKube's tenant and registry, rarely, in a task of its own.

A poll is repeated at the DynaKube's own interval, sooner after a failure, and at once when the DynaKube names another
tenant, registry or image. A tenant that hangs delays no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from oneagent.common import backoff
from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import DynaKubeName, TenantId
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import image_resolver, inputs, poll
from oneagent.common.tenant.image_resolver import ImageState, SignatureStore
from oneagent.common.tenant.inputs import ObjectReader
from oneagent.common.tenant.poll import TenantState
from oneagent.csi_driver.provisioner import package_sources

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS: Final = 5.0
_TENANTS_AT_ONCE: Final = 4


@dataclass(slots=True)
class _PollState:
    """The polls of one DynaKube."""

    tenant: TenantState | None = None
    settings: tuple[object, ...] = ()
    image: str = ""
    """The package's fingerprint at the last poll."""
    running: bool = False
    next_at: float = 0.0


class TenantPoller:
    """Call it under the caller's lock. `on_state` is called without it after each poll."""

    def __init__(
        self,
        objects: ObjectReader,
        registries: Registries,
        signatures: SignatureStore,
        on_state: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._registries = registries
        self._signatures = signatures
        self._on_state = on_state
        self._now = now
        self._polls: dict[DynaKubeName, _PollState] = {}
        self._tasks = ThreadPoolExecutor(_TENANTS_AT_ONCE, thread_name_prefix="tenant")

    def state(self, name: DynaKubeName) -> TenantState | None:
        """Return the last answers; None before the first poll has ended."""
        polled = self._polls.get(name)
        return polled.tenant if polled else None

    def retain(self, names: Container[DynaKubeName]) -> None:
        """Drop the state of all other DynaKubes."""
        for name in [name for name in self._polls if name not in names]:
            del self._polls[name]

    def stop(self) -> None:
        self._tasks.shutdown(wait=False, cancel_futures=True)

    def poll_if_due(self, dynakube: DynaKube) -> None:
        """Start a poll in the background if one is due."""
        polled = self._polls.setdefault(dynakube.name, _PollState())
        settings = (*inputs.poll_settings(dynakube), dynakube.tenant, dynakube.technologies)
        image = package_sources.find_kind(dynakube).fingerprint(dynakube)
        due = settings != polled.settings or time.monotonic() >= polled.next_at
        if polled.running or not (due or image != polled.image):
            return
        if settings != polled.settings:
            polled.settings = settings
            # Another tenant or host group counts its revisions from the start. Until it answers, the row stays.
            polled.tenant = None
        polled.image = image
        polled.running = True
        self._tasks.submit(self._run, dynakube, polled, due)

    def _run(self, dynakube: DynaKube, polled: _PollState, due: bool) -> None:
        try:
            if due or polled.tenant is None:
                polled.tenant = self._poll(dynakube, polled.tenant or TenantState())
                self._schedule(dynakube, polled, polled.tenant)
                return
            # A new image alone is no reason to poll the tenant, from all nodes at once.
            before = polled.tenant
            image = self._resolve_image(dynakube, before.image)
            if image.problem:
                polled.tenant = poll.with_image(before, image, before.failures)
                self._schedule(dynakube, polled, polled.tenant)
            else:
                polled.tenant = replace(before, image=image)
        except Exception:
            log.exception("poll failed")
            polled.next_at = time.monotonic() + dynakube.poll_seconds
        finally:
            polled.running = False
            self._on_state()

    def _poll(self, dynakube: DynaKube, before: TenantState) -> TenantState:
        state = poll.poll(
            dynakube,
            self._objects,
            before,
            requests=poll.Requests(
                latest=not (dynakube.decided_version or dynakube.pinned_version or dynakube.package)
            ),
            now=self._now,
            resolve_image=partial(self._resolve_image, dynakube),
        )
        if not dynakube.api_url:
            # Without a tenant, the DynaKube's name separates its config layers from those of others.
            return replace(state, tenant=dynakube.tenant or TenantId(dynakube.name))
        return state

    def _resolve_image(self, dynakube: DynaKube, before: ImageState) -> ImageState:
        image = dynakube.image or dynakube.image_layout
        if image is None or (image.digest and not dynakube.image_key):
            return ImageState()
        return image_resolver.resolve(dynakube, image, self._objects, before, self._registries, self._signatures)

    def _schedule(self, dynakube: DynaKube, polled: _PollState, state: TenantState) -> None:
        interval = dynakube.poll_seconds if state.failures else backoff.jittered(dynakube.poll_seconds)
        polled.next_at = time.monotonic() + poll.next_poll_seconds(state, interval, _FIRST_PAUSE_SECONDS)
