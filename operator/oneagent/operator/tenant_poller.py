"""Polls the tenant of one DynaKube: in a thread, when the interval is over or an input has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace

from oneagent.common.dynakube import DynaKube
from oneagent.common.oci import public_keys
from oneagent.common.oci.hosts import Registries
from oneagent.operator import api, asking, images


class TenantPoller:
    """Holds the state that the last poll returned. Belongs to the event loop's thread."""

    def __init__(
        self,
        server: api.Api,
        namespace: str,
        limit: asking.Limit,
        threads: Executor,
        registries: Registries,
        on_state: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_state` is called when a poll has ended; the next `poll_if_due` takes over its result."""
        self._api, self._namespace, self._limit = server, namespace, limit
        self._threads, self._registries = threads, registries
        self._on_state, self._clock = on_state, clock
        self._polled_settings: object = None
        self._polled_tenant: object = None
        self._finished_at = 0.0
        self._running: asyncio.Future[asking.TenantState] | None = None
        self.state = asking.TenantState()
        self.inputs: frozenset[tuple[str, str]] = frozenset()
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
        inputs, self.inputs = await read_inputs(self._api, self._namespace, dynakube)
        settings = (poll_settings(dynakube), inputs)
        # From the current DynaKube: a shorter interval takes effect before the former one has passed.
        due = self._finished_at + asking.pause(self.state, dynakube.poll_seconds) - self._clock()
        if settings == self._polled_settings and due > 0:
            return due
        if (dynakube.uid, dynakube.api_url) != self._polled_tenant:
            self.state, self._polled_tenant = asking.TenantState(), (dynakube.uid, dynakube.api_url)
        elif settings != self._polled_settings:
            # "Nothing has changed since this revision" would be wrong for other settings.
            self.state = replace(self.state, revision=0)
        self._polled_settings = settings
        self._start(dynakube, inputs)
        return None

    def _start(self, dynakube: DynaKube, inputs: asking.Inputs) -> None:
        args = (dynakube, inputs, self.state, self._limit, self._clock, self._registries)
        self._running = asyncio.get_running_loop().run_in_executor(self._threads, asking.ask, *args)
        self._running.add_done_callback(lambda _: self._on_state())


def poll_settings(dynakube: DynaKube) -> tuple[object, ...]:
    """Return the fields of a DynaKube that change the result of a poll."""
    return (
        *(dynakube.api_url, dynakube.tokens_secret, dynakube.network_zone),
        *(dynakube.proxy, dynakube.proxy_secret, dynakube.no_proxy),
        *(dynakube.trusted_cas, dynakube.skip_cert_check, dynakube.host_group),
        *(dynakube.package, dynakube.pull_secret, dynakube.image_key),
    )


async def read_inputs(
    server: api.Api, namespace: str, dynakube: DynaKube
) -> tuple[asking.Inputs, frozenset[tuple[str, str]]]:
    """Read the objects that a poll needs; return them with their kinds and names. `ApiError`."""
    used = {("Secret", dynakube.tokens_secret)}
    tokens = await _read_content(server, namespace, api.SECRETS, dynakube.tokens_secret)
    proxy, certificates, missing = "", "", ""
    if dynakube.proxy_secret:
        used.add(("Secret", dynakube.proxy_secret))
        content = await _read_content(server, namespace, api.SECRETS, dynakube.proxy_secret)
        proxy = (content or {}).get("proxy", "")
        missing = "" if proxy else f"the Secret {dynakube.proxy_secret} with the key proxy is not there"
    if dynakube.trusted_cas:
        used.add(("ConfigMap", dynakube.trusted_cas))
        content = await _read_content(server, namespace, api.CONFIG_MAPS, dynakube.trusted_cas)
        certificates = (content or {}).get("certs", "")
        if not certificates:
            missing = f"the ConfigMap {dynakube.trusted_cas} with the key certs is not there"
    image = images.Secrets()
    if dynakube.image is not None:
        named = (dynakube.pull_secret, "" if public_keys.is_pem(dynakube.image_key) else dynakube.image_key)
        used |= {("Secret", name) for name in named if name}
        image = images.Secrets(
            *[await _read_content(server, namespace, api.SECRETS, name) if name else None for name in named]
        )
    return asking.Inputs(tokens, proxy, certificates, missing, image), frozenset(used)


async def _read_content(server: api.Api, namespace: str, resource: api.Resource, name: str) -> Mapping[str, str] | None:
    found = await server.find(resource, name, namespace)
    return None if found is None else api.content(found)
