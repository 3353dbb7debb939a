"""LimitRanges and quotas of all namespaces, from watches.

Of each only its rules are stored, and equal ones share them. Admissions do not wait for these watches: without them
an init container has just what one of its pod's containers has, which is always admitted.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from oneagent.common import backoff
from oneagent.common.kubernetes import list_watch
from oneagent.common.kubernetes.watch import Watch
from oneagent.webhook import api
from oneagent.webhook.injection import namespace_limits
from oneagent.webhook.injection.namespace_limits import Rules

_READERS: Final[Mapping[str, Callable[[msgspec.Raw], Rules]]] = {
    "limitranges": namespace_limits.read_limit_range,
    "resourcequotas": namespace_limits.read_quota,
}


class NamespaceLimits:
    """For one event loop."""

    def __init__(
        self,
        server: api.Api,
        *,
        first_pause: float = list_watch.FIRST_PAUSE,
        periods: list_watch.Periods = list_watch.DEFAULT_PERIODS,
    ) -> None:
        self._by_namespace: collections.defaultdict[str, dict[str, Rules]] = collections.defaultdict(dict)
        self.watches: Sequence[Watch[Any]] = [
            Watch(
                server,
                list_watch.Collection(f"/api/v1/{plural}", periods=periods),
                read,
                self._follow(plural),
                retry=backoff.Backoff(first_pause, list_watch.LONGEST_PAUSE),
            )
            for plural, read in _READERS.items()
        ]

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in self.watches:
                group.create_task(watch.run())

    def find(self, namespace: str) -> tuple[Rules, ...] | None:
        """Return None while they are not known."""
        if not all(watch.is_synced for watch in self.watches):
            return None
        return tuple(self._by_namespace[namespace].values()) if namespace in self._by_namespace else ()

    def _follow(self, plural: str) -> Callable[[list_watch.Changes[Rules]], None]:
        def changed(changes: list_watch.Changes[Rules]) -> None:
            for key, rules in changes.updated.items():
                self._by_namespace[key.partition("/")[0]][f"{plural}/{key}"] = rules
            for key in changes.deleted:
                namespace = key.partition("/")[0]
                self._by_namespace[namespace].pop(f"{plural}/{key}", None)
                if not self._by_namespace[namespace]:
                    del self._by_namespace[namespace]

        return changed
