"""Polls the tenant of one DynaKube: in a thread, when the interval is over or an input has changed.

A changed input cancels a poll with the former one. A tenant has one poll at a time, and one that hangs delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from oneagent.common import dynakube as dynakubes
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import exchange
from oneagent.common.oci import reference
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import image_resolver, inputs, poll
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.inputs import Inputs, ObjectName
from oneagent.common.tenant.poll import TenantState
from oneagent.common.tenant.slots import Slot, Slots
from oneagent.operator import api
from oneagent.operator.rate_limit import RateLimiter

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS: Final = 15.0
_SHORTEST_PAUSE_SECONDS: Final = 10.0
_TENANTS_AT_ONCE: Final = 16
_PATIENCE_SECONDS: Final = 3.0
_NO_SLOT_SECONDS: Final = 1.0


def create_slots() -> Slots:
    """Return the places that all pollers of a process share."""
    return Slots(_TENANTS_AT_ONCE, _PATIENCE_SECONDS)


@dataclass(slots=True)
class _Task:
    """A poll in progress; `state` is its result."""

    slot: Slot
    cancelled: threading.Event = field(default_factory=threading.Event)
    state: TenantState | None = None


class TenantPoller:
    """Holds the state that the last poll returned. Belongs to the event loop's thread."""

    def __init__(
        self,
        server: api.Api,
        namespace: str,
        limit: RateLimiter,
        slots: Slots,
        registries: Registries,
        on_state: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`on_state` is called when a poll has ended; the next `poll_if_due` takes over its result.

        `clock` measures the time between polls; `now` is the time of day, which may be set at any moment.
        """
        self._api, self._namespace, self._limit = server, namespace, limit
        self._slots, self._registries = slots, registries
        self._on_state, self._clock, self._now = on_state, clock, now
        self._signatures = image_resolver.MemorySignatures()
        self._polled_settings: object = None
        self._polled_tenant: object = None
        self._finished_at = 0.0
        self._interval = 0.0
        self._pause = 0.0
        """Seconds from the end of the last poll to the next one, for the interval that the DynaKube had then."""
        self._task: _Task | None = None
        self.state = TenantState()
        self.inputs: frozenset[ObjectName] = frozenset()
        """Kind and name of the objects that a poll needs; a change of one makes the next poll due."""

    async def poll_if_due(self, dynakube: DynaKube) -> float | None:
        """Start a poll in the background if one is due; return the seconds until the next one.

        None while a poll is running.
        """
        if self._task is not None and self._task.state is not None:
            self.state, self._task = self._task.state, None
            self._finished_at = self._clock()
            self._schedule(dynakube)
        objects = await read_inputs(self._api, self._namespace, dynakube)
        self.inputs = frozenset(objects.contents)
        settings = (inputs.poll_settings(dynakube), objects)
        if self._task is not None:
            if settings == self._polled_settings:
                return None
            self.stop()
        if dynakube.poll_seconds != self._interval:
            # A shorter interval takes effect before the former one has passed.
            self._schedule(dynakube)
        due = self._finished_at + self._pause - self._clock()
        if settings == self._polled_settings and due > 0:
            return due
        slot = self._slots.acquire(dynakube.api_url or dynakube.package or dynakube.name)
        if slot is None:
            return _NO_SLOT_SECONDS
        if (dynakube.uid, dynakube.api_url) != self._polled_tenant:
            self.state, self._polled_tenant = TenantState(), (dynakube.uid, dynakube.api_url)
        elif settings != self._polled_settings:
            # "Nothing has changed since this revision" would be wrong for other settings.
            self.state = replace(self.state, revision=0, exporter_inputs="")
        self._polled_settings = settings
        self._start(dynakube, objects, slot)
        return None

    def stop(self) -> None:
        """Cancel a running poll, whose result is then ignored."""
        if self._task is not None:
            self._task.cancelled.set()
            self._slots.release(self._task.slot)
            self._task = None

    def _schedule(self, dynakube: DynaKube) -> None:
        """Decide when the next poll is, once: the pause has a random part."""
        self._interval = dynakube.poll_seconds
        self._pause = poll.next_poll_seconds(self.state, self._interval, _FIRST_PAUSE_SECONDS, _SHORTEST_PAUSE_SECONDS)
        left = self._finished_at + self._pause - self._clock()
        self.state = poll.with_next_poll(self.state, left, self._now())

    def _start(self, dynakube: DynaKube, objects: Inputs, slot: Slot) -> None:
        # Of equal contents it stays: all nodes would read them again for a new label.
        digest = self.state.exporter_inputs or objects.digest(inputs.exporter_objects(dynakube))
        before = self.state = replace(self.state, exporter_inputs=digest)
        call = partial(
            poll.poll,
            dynakube,
            objects,
            before,
            requests=poll.Requests(scopes=True, public_images=True),
            now=self._now,
            wait=self._limit.wait,
            resolve_image=partial(self._resolve_image, dynakube, objects),
        )
        task = self._task = _Task(slot)
        arguments = (call, before, task, asyncio.get_running_loop())
        # A daemon: waiting for the rate limit can't be cancelled, and must not keep the process from ending.
        threading.Thread(target=self._run, args=arguments, name="tenant", daemon=True).start()

    def _run(
        self, call: Callable[[], TenantState], before: TenantState, task: _Task, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Run a poll; in its thread."""
        try:
            with exchange.cancel_scope(task.cancelled):
                task.state = call()
        except Exception as error:
            log.exception("poll failed")
            task.state = poll.after_error(before, error)
        finally:
            self._slots.release(task.slot)
            with contextlib.suppress(RuntimeError):  # The loop has been closed meanwhile.
                loop.call_soon_threadsafe(self._on_state)

    def _resolve_image(self, dynakube: DynaKube, objects: Inputs, before: ImageState) -> ImageState:
        if dynakube.image is None:
            return ImageState()
        # The digest in the status is one of an earlier poll: only a tag that is not followed stays with it.
        stays = dynakube.pull_policy == dynakubes.FIRST_DIGEST
        image = dynakube.image if stays else reference.parse(dynakube.package)
        return image_resolver.resolve(dynakube, image, objects, before, self._registries, self._signatures)


async def read_inputs(server: api.Api, namespace: str, dynakube: DynaKube) -> Inputs:
    """Read the objects that a poll needs. `ApiError`."""
    contents: dict[ObjectName, Mapping[str, str] | None] = {}
    versions: dict[ObjectName, str] = {}
    for kind, name in inputs.referenced_objects(dynakube):
        found = await server.find(api.SECRETS if kind == "Secret" else api.CONFIG_MAPS, name, namespace)
        contents[kind, name] = None if found is None else api.decode_data(found)
        if found is not None:
            versions[kind, name] = f"{found['metadata'].get('uid')}/{found['metadata'].get('resourceVersion')}"
    return Inputs(contents, versions)
