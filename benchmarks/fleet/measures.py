"""Requests by the API server's audit log, bytes by its metrics."""

from __future__ import annotations

import collections
import contextlib
import datetime
import json
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.control_plane import ControlPlane

_BYTES: Final = ("apiserver_response_sizes_sum", "apiserver_watch_events_sizes_sum")
_OURS: Final = ("dynakubes", "secrets", "events", "leases")
"""Resources that nodes use."""


@dataclass
class Requests:
    """Requests of one service account."""

    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    """By verb and resource."""
    seconds: collections.Counter[int] = field(default_factory=collections.Counter)
    """By second."""
    watch_seconds: dict[str, list[float]] = field(default_factory=dict)
    """Time limits of watches, by resource."""

    @property
    def total(self) -> int:
        return self.kinds.total()

    @property
    def peak(self) -> int:
        """The most in a second."""
        return max(self.seconds.values(), default=0)

    def peak_of_minute(self) -> int:
        """The most in a minute."""
        minutes = collections.Counter[int]()
        for second, number in self.seconds.items():
            minutes[second // 60] += number
        return max(minutes.values(), default=0)


class AuditLog:
    """The part of the API server's log since the last `take`."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._seen = path, 0, set[str]()

    def take(self) -> dict[str, Requests]:
        """Return the requests since the last call, by service account."""
        found = collections.defaultdict[str, Requests](Requests)
        for event in self._read():
            if event["auditID"] in self._seen:
                continue
            self._seen.add(event["auditID"])
            requests = found[event["user"]["username"].rpartition(":")[2]]
            resource = event.get("objectRef", {}).get("resource", "discovery")
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(event["requestURI"]).query)
            from_cache = event["verb"] == "list" and query.get("resourceVersion") == ["0"]
            requests.kinds[f"{event['verb']} {resource}{' from the cache' if from_cache else ''}"] += 1
            at = datetime.datetime.fromisoformat(event["requestReceivedTimestamp"])
            requests.seconds[int(at.timestamp())] += 1
            if event["verb"] == "watch":
                limit = float(query.get("timeoutSeconds", ["0"])[0])
                requests.watch_seconds.setdefault(resource, []).append(limit)
        return found

    def _read(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                yield json.loads(line)


def sent_bytes(plane: ControlPlane) -> float:
    """Bytes that the API server has sent since its start about what nodes use."""
    total = 0.0
    for family in text_string_to_metric_families(_metrics(plane)):
        for sample in family.samples:
            if sample.name in _BYTES and sample.labels.get("resource") in _OURS:
                total += sample.value
    return total


def _metrics(plane: ControlPlane) -> str:
    """The API server's metrics; on a busy machine it may not answer in time."""
    for _ in range(5):
        with contextlib.suppress(OSError):
            return plane.text("/metrics")
    return plane.text("/metrics")
