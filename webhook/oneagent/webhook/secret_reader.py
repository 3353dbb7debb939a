"""Reads the Secrets that a DynaKube names, while it is validated.

Each is read by its name and from the own namespace only. A Secret that cannot be read in time is left out: then the
operator's conditions report its faults. Values live as long as the admission, and no log or metric has them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Final

from oneagent.common import logs
from oneagent.common.kubernetes import errors
from oneagent.webhook import api
from oneagent.webhook.certificates import Secret

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 1.0
"""Longest time that a DynaKube's admission waits for its Secrets."""


class SecretReader:
    def __init__(self, server: api.Api, namespace: str) -> None:
        self._api, self._namespace = server, namespace

    async def read(self, names: Iterable[str]) -> dict[str, Mapping[str, str] | None]:
        """Return the texts of each Secret by key, and None for a Secret that does not exist."""
        found: dict[str, Mapping[str, str] | None] = {}

        async def read(name: str) -> None:
            path = "/".join(urllib.parse.quote(part, safe="") for part in (self._namespace, "secrets", name))
            try:
                content = await self._api.read(f"/api/v1/namespaces/{path}", seconds=WAIT_SECONDS)
                found[name] = _decode(errors.decode(content, Secret))
            except errors.NotFoundError:
                found[name] = None
            except errors.ApiError as error:
                log.warning("secret not read, DynaKube admitted", extra=logs.fields(secret=name, reason=error))

        await asyncio.gather(*(read(name) for name in names))
        return found


def _decode(secret: Secret) -> dict[str, str]:
    """Return the values that are text."""
    texts = {}
    for key, value in (secret.data or {}).items():
        with contextlib.suppress(ValueError):
            texts[key] = base64.b64decode(value, validate=True).decode()
    return texts
