"""Waits at a start until new DynaKubes get through to the webhook, for the operator's readiness.

A Service is programmed on the nodes a moment after its pods are ready. Until then the API server's call of the
webhook is refused, and with it a DynaKube that is applied as soon as `helm install --wait` returns. So the operator
is not ready before the Service's address accepts a connection, and all DynaKubes are converted by the webhook.

A webhook that is down must not keep the operator, which serves packages, from being ready: the wait is bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from oneagent.common import logs
from oneagent.common.kubernetes.errors import ApiError
from oneagent.operator import api
from oneagent.operator.certificates.probe import SERVICES
from oneagent.operator.certificates.settings import CertificateSettings

log = logging.getLogger(__name__)

LONGEST_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.25
_CONNECT_SECONDS: Final = 2.0


class Services(Protocol):
    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...


class WebhookReachability:
    def __init__(
        self,
        client: Services,
        settings: CertificateSettings,
        is_settled: Callable[[], bool],
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        """`is_settled`: the webhook's certificate and all that refers to it are in place."""
        self._client, self._settings, self._is_settled = client, settings, is_settled
        self._longest_seconds = longest_seconds
        self.problem = "the webhook has not been reached yet"

    async def run(self) -> None:
        """Return once `problem` is empty: the webhook was reached, is not installed, or was waited for in vain."""
        try:
            async with asyncio.timeout(self._longest_seconds):
                while not await self._is_reached():  # noqa: ASYNC110 - nothing tells when
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            details = logs.fields(service=self._settings.service, seconds=self._longest_seconds)
            log.warning("webhook not reachable; DynaKubes cannot be created or changed", extra=details)
        self.problem = ""

    async def _is_reached(self) -> bool:
        try:
            service = await self._client.find(SERVICES, self._settings.service, self._settings.namespace)
        except ApiError:
            return False
        if service is None:
            return True
        return self._is_settled() and await _connects(service["spec"].get("clusterIP", ""), self._settings.port)


async def _connects(address: str, port: int) -> bool:
    if address in ("", "None"):
        return True  # A Service that no node has to program.
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except (TimeoutError, OSError):
        return False
    writer.transport.abort()
    return True
