"""Polls the tenant of one DynaKube: in a thread, when the interval is over or an input has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Final

from oneagent.common.dynakube import DynaKube
from oneagent.common.oci import reference
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import image_resolver, inputs, poll
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.inputs import Inputs, ObjectName
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api
from oneagent.operator.rate_limit import RateLimiter

_FIRST_PAUSE_SECONDS: Final = 15.0
_SHORTEST_PAUSE_SECONDS: Final = 10.0


class TenantPoller:
    """Holds the state that the last poll returned. Belongs to the event loop's thread."""

    def __init__(
        self,
        server: api.Api,
        namespace: str,
        limit: RateLimiter,
        threads: Executor,
        registries: Registries,
        on_state: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_state` is called when a poll has ended; the next `poll_if_due` takes over its result."""
        self._api, self._namespace, self._limit = server, namespace, limit
        self._threads, self._registries = threads, registries
        self._on_state, self._clock = on_state, clock
        self._signatures = image_resolver.MemorySignatures()
        self._polled_settings: object = None
        self._polled_tenant: object = None
        self._finished_at = 0.0
        self._running: asyncio.Future[TenantState] | None = None
        self.state = TenantState()
        self.inputs: frozenset[ObjectName] = frozenset()
        """Kind and name of the objects that a poll needs; a change of one makes the next poll due."""

    async def poll_if_due(self, dynakube: DynaKube) -> float | None:
        """Start a poll in the background if one is due; return the seconds until the next one.

        None while a poll is running.
        """
        if self._running is not None:
            if not self._running.done():
                return None
            done, self._running = self._running, None
            self.state = done.result()
            self._finished_at = self._clock()
        objects = await read_inputs(self._api, self._namespace, dynakube)
        self.inputs = frozenset(objects.contents)
        settings = (inputs.poll_settings(dynakube), objects)
        # From the current DynaKube: a shorter interval takes effect before the former one has passed.
        due = self._finished_at + self._pause(dynakube) - self._clock()
        if settings == self._polled_settings and due > 0:
            return due
        if (dynakube.uid, dynakube.api_url) != self._polled_tenant:
            self.state, self._polled_tenant = TenantState(), (dynakube.uid, dynakube.api_url)
        elif settings != self._polled_settings:
            # "Nothing has changed since this revision" would be wrong for other settings.
            self.state = replace(self.state, revision=0)
        self._polled_settings = settings
        self._start(dynakube, objects)
        return None

    def _pause(self, dynakube: DynaKube) -> float:
        return poll.next_poll_seconds(self.state, dynakube.poll_seconds, _FIRST_PAUSE_SECONDS, _SHORTEST_PAUSE_SECONDS)

    def _start(self, dynakube: DynaKube, objects: Inputs) -> None:
        call = partial(
            poll.poll,
            dynakube,
            objects,
            self.state,
            requests=poll.Requests(scopes=True),
            now=self._clock,
            wait=self._limit.wait,
            resolve_image=partial(self._resolve_image, dynakube, objects),
        )
        self._running = asyncio.get_running_loop().run_in_executor(self._threads, call)
        self._running.add_done_callback(lambda _: self._on_state())

    def _resolve_image(self, dynakube: DynaKube, objects: Inputs, before: ImageState) -> ImageState:
        if dynakube.image is None:
            return ImageState()
        # The name as the user wrote it, not the digest that an earlier poll has put into the status.
        image = reference.parse(dynakube.package)
        return image_resolver.resolve(dynakube, image, objects, before, self._registries, self._signatures)


async def read_inputs(server: api.Api, namespace: str, dynakube: DynaKube) -> Inputs:
    """Read the objects that a poll needs. `ApiError`."""
    contents = {name: await _read_content(server, namespace, name) for name in inputs.referenced_objects(dynakube)}
    return Inputs(contents)


async def _read_content(server: api.Api, namespace: str, name: ObjectName) -> Mapping[str, str] | None:
    resource = api.SECRETS if name[0] == "Secret" else api.CONFIG_MAPS
    found = await server.find(resource, name[1], namespace)
    return None if found is None else api.decode_data(found)
