"""The schedule of polls: each DynaKube's tenant and registry, rarely, in a task of its own.

A poll is repeated at the DynaKube's own interval, sooner after a failure, and at once when the DynaKube names another
tenant, registry or image: a poll with the former settings is cancelled. A tenant that hangs delays no other, and no
tenant has two polls at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from oneagent.common import backoff
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import exchange
from oneagent.common.identifiers import DynaKubeName, TenantId
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import image_resolver, inputs, poll
from oneagent.common.tenant.image_resolver import ImageState, SignatureStore
from oneagent.common.tenant.inputs import ObjectReader
from oneagent.common.tenant.poll import TenantState
from oneagent.common.tenant.slots import Slot, Slots
from oneagent.csi_driver.provisioner import package_sources

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS: Final = 5.0
_TENANTS_AT_ONCE: Final = 4
_PATIENCE_SECONDS: Final = 3.0
"""A poll of two or three small answers seldom takes a second."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A poll in progress."""

    slot: Slot
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class _PollState:
    """The polls of one DynaKube."""

    tenant: TenantState | None = None
    settings: tuple[object, ...] = ()
    image: str = ""
    """The package's fingerprint at the last poll."""
    task: _Task | None = None
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
        self._slots = Slots(_TENANTS_AT_ONCE, _PATIENCE_SECONDS)
        self._lock = threading.Lock()
        """Held while a poll's end and its cancellation are decided."""

    def state(self, name: DynaKubeName) -> TenantState | None:
        """Return the last answers; None before the first poll has ended."""
        polled = self._polls.get(name)
        return polled.tenant if polled else None

    def retain(self, names: Container[DynaKubeName]) -> None:
        """Drop the state of all other DynaKubes."""
        for name in [name for name in self._polls if name not in names]:
            self._cancel(self._polls.pop(name))

    def stop(self) -> None:
        """Cancel all polls. Their threads end soon, or with the process."""
        for polled in self._polls.values():
            self._cancel(polled)

    def poll_if_due(self, dynakube: DynaKube) -> None:
        """Start a poll in the background if one is due."""
        polled = self._polls.setdefault(dynakube.name, _PollState())
        settings = (*inputs.poll_settings(dynakube), dynakube.tenant, dynakube.technologies)
        image = package_sources.find_kind(dynakube).fingerprint(dynakube)
        if settings != polled.settings:
            self._cancel(polled)
            # Another tenant or host group counts its revisions from the start. Until it answers, the row stays.
            polled.settings, polled.tenant, polled.next_at = settings, None, 0.0
        due = time.monotonic() >= polled.next_at
        if polled.task is not None or not (due or image != polled.image):
            return
        slot = self._slots.acquire(dynakube.api_url or dynakube.package or dynakube.name)
        if slot is None:
            return  # The loop comes back in a second, and when a poll ends.
        polled.task = task = _Task(slot)
        # A daemon: reading a Secret can't be cancelled, and must not keep the process from ending.
        arguments = (dynakube, polled, task, due)
        try:
            threading.Thread(target=self._run, args=arguments, name="tenant", daemon=True).start()
        except RuntimeError:  # A limit of threads: the next reconcile tries again.
            self._cancel(polled)
            raise
        polled.image = image

    def _cancel(self, polled: _PollState) -> None:
        """Cancel a running poll, whose result is then ignored."""
        with self._lock:
            task, polled.task = polled.task, None
        if task is not None:
            task.cancelled.set()
            self._slots.release(task.slot)

    def _run(self, dynakube: DynaKube, polled: _PollState, task: _Task, due: bool) -> None:
        before = polled.tenant
        try:
            with exchange.cancel_scope(task.cancelled):
                state = self._next_state(dynakube, before, due)
        except Exception as error:
            log.exception("poll failed")
            state = poll.after_error(before or TenantState(), error)
        try:
            with self._lock:
                if polled.task is task:
                    if due or before is None or state.failures != before.failures:
                        state = self._schedule(dynakube, polled, state)
                    polled.tenant, polled.task = state, None
        finally:
            self._slots.release(task.slot)
            self._on_state()

    def _next_state(self, dynakube: DynaKube, before: TenantState | None, due: bool) -> TenantState:
        if due or before is None:
            return self._poll(dynakube, before or TenantState())
        # A new image alone is no reason to poll the tenant, from all nodes at once.
        image = self._resolve_image(dynakube, before.image)
        return poll.with_image(before, image, before.failures) if image.problem else replace(before, image=image)

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

    def _schedule(self, dynakube: DynaKube, polled: _PollState, state: TenantState) -> TenantState:
        """Decide when the next poll is; return the state with it."""
        interval = dynakube.poll_seconds if state.failures else backoff.jittered(dynakube.poll_seconds)
        pause = poll.next_poll_seconds(state, interval, _FIRST_PAUSE_SECONDS)
        polled.next_at = time.monotonic() + pause
        return poll.with_next_poll(state, pause, self._now())
