"""The decision from where a node has the tenant's answers for one DynaKube, and when it reads those of the operator.

The operator asks tenants for the whole cluster. It writes its answers into a Secret and their digest into the
DynaKube's status, which nodes watch: so a node reads the Secret once for each content, and nothing while nothing
changes. All nodes see a new digest in the same second. Each reads it within half a minute, at once while a pod waits
for the DynaKube, and at once after its own start.

An operator marks a DynaKube with its first status. Where no mark comes, there is none, or an older one: then the node
asks the tenant itself, as it does without an API server.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from typing import Final

from oneagent.common.dynakube import DynaKube
from oneagent.common.dynakube.tenant_config import TenantConfig

LONGEST_JITTER_SECONDS: Final = 30.0


class Feed(enum.Enum):
    TENANT = enum.auto()
    OPERATOR = enum.auto()
    NOT_DECIDED = enum.auto()


class OperatorFeed:
    """The feed of one DynaKube."""

    def __init__(
        self,
        wait_seconds: float | None,
        jitter_seconds: float = LONGEST_JITTER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`wait_seconds`: time for an operator's mark, up to twice that without a waiting pod; None: no operator.

        `jitter_seconds`: the longest random delay before new answers are read.
        """
        self._wait_seconds, self._jitter_seconds = wait_seconds, min(jitter_seconds, LONGEST_JITTER_SECONDS)
        self._clock, self._draw = clock, draw
        self._unmarked_since: float | None = None
        self._patience = 0.0
        self._digest: str | None = None
        """The digest in the status; None before the first look."""
        self._noted_at = self._read_at = 0.0
        self.has_failed = False
        """The last read has failed; the caller repeats it."""
        self.done: frozenset[str] = frozenset()
        """Digests that the node need not read: that of the content it has, and of the status it has read it for."""

    def choose(self, dynakube: DynaKube, *, pod_waits: bool) -> Feed:
        if self._wait_seconds is None or not dynakube.api_url:
            return Feed.TENANT
        if dynakube.tenant_config is not None:
            self._note(dynakube.tenant_config)
            self._unmarked_since = None
            return Feed.OPERATOR
        if self._unmarked_since is None:
            self._unmarked_since = self._clock()
            self._patience = self._wait_seconds * (1 + self._draw())
        patience = self._wait_seconds if pod_waits else self._patience
        return Feed.TENANT if self._clock() - self._unmarked_since >= patience else Feed.NOT_DECIDED

    def is_due(self, config: TenantConfig, *, pod_waits: bool) -> bool:
        """Return whether there are answers to read, and the time has come."""
        is_new = bool(config.digest) and config.digest not in self.done
        return is_new and not self.has_failed and (pod_waits or self._clock() >= self._read_at)

    @property
    def waited_seconds(self) -> float:
        """Seconds since the node has known of the newest answers."""
        return self._clock() - self._noted_at

    def _note(self, config: TenantConfig) -> None:
        """Choose the time at which a new digest is read."""
        if config.digest != self._digest:
            is_first = self._digest is None and self._unmarked_since is None
            self._digest, self.has_failed = config.digest, False
            self._noted_at = self._clock()
            self._read_at = self._noted_at + (0.0 if is_first else self._draw() * self._jitter_seconds)
