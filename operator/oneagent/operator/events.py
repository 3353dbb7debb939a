"""Events about DynaKubes: what `kubectl describe` shows. Best effort: none is tried twice."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from oneagent.common import logs
from oneagent.common.kubernetes.errors import ApiError
from oneagent.operator import api, conditions

log = logging.getLogger(__name__)

COMPONENT: Final = "oneagent-operator"
_MAX_MESSAGE_LENGTH: Final = 1024
_QUIET_SECONDS: Final = 60.0
_REMEMBERED: Final = 1000


class Events:
    def __init__(self, server: api.Api) -> None:
        self._api = server
        self._said: dict[tuple[str, ...], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def say(self, about: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        """`Normal` or `Warning`. The same about the same object is not said again within a minute."""
        metadata = about["metadata"]
        key = (str(metadata.get("uid")), kind, reason, message)
        now = time.monotonic()
        if now - self._said.get(key, -_QUIET_SECONDS) < _QUIET_SECONDS:
            return
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said[key] = now
        task = asyncio.create_task(self._send(about, kind, reason, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, about: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        metadata = about["metadata"]
        # Events about what lies in no namespace are in this one, by convention.
        namespace = metadata.get("namespace") or "default"
        stamp = conditions.stamp(time.time())
        event = {
            "apiVersion": api.EVENTS.api_version,
            "kind": api.EVENTS.kind,
            "metadata": {"name": f"{metadata['name'][:230]}.{secrets.token_hex(8)}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": kind,
            "reason": reason,
            "message": message[:_MAX_MESSAGE_LENGTH],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            await self._api.create(api.EVENTS, event, namespace)
        except ApiError as error:
            log.warning("an Event was not written", extra=logs.facts(reason=reason, error=error))
