"""The histogram that CSI sidecars keep of their calls, in Prometheus' text form.

Its name, labels and buckets are those of the Go sidecars, so that existing dashboards go on working; the
numbers are written as Go writes them (`le="1"`, not `le="1.0"`). Not `prometheus_client`: that one brings
11 MiB to a process of 22.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from oneagent.sidecars.grpc.protocol import StatusCode

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NAME: Final = "csi_sidecar_operations_seconds"
_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600)


class Operations:
    """How many calls took how long, by driver, method and status."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, str], list[int]] = {}
        self._sums: dict[tuple[str, str, str], float] = {}
        self._started = time.time()

    def observe(self, driver_name: str, method: str, status: StatusCode, seconds: float) -> None:
        """Count one call; `method` is its full name, `/csi.v1.Identity/Probe`."""
        key = (driver_name, _go_name(status), method)
        with self._lock:
            counts = self._counts.setdefault(key, [0] * (len(_BUCKETS) + 1))
            counts[sum(seconds > bound for bound in _BUCKETS)] += 1
            self._sums[key] = self._sums.get(key, 0.0) + seconds

    def render(self) -> str:
        """The page that Prometheus scrapes."""
        lines = [
            f"# HELP {_NAME} Seconds that calls to the CSI driver took, by gRPC status",
            f"# TYPE {_NAME} histogram",
        ]
        with self._lock:
            for key in sorted(self._counts):
                lines += self._series(key)
        lines += [
            "# HELP process_start_time_seconds When the process started, in seconds since 1970",
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self._started:.2f}",
        ]
        return "\n".join(lines) + "\n"

    def _series(self, key: tuple[str, str, str]) -> list[str]:
        driver, status, method = map(_escaped, key)
        labels = f'driver_name="{driver}",grpc_status_code="{status}",method_name="{method}"'
        lines, total = [], 0
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), self._counts[key], strict=True):
            total += count
            lines.append(f'{_NAME}_bucket{{{labels},le="{bound}"}} {total}')
        lines.append(f"{_NAME}_sum{{{labels}}} {self._sums[key]:.9g}")
        lines.append(f"{_NAME}_count{{{labels}}} {total}")
        return lines


def _go_name(status: StatusCode) -> str:
    # Go's spelling of the codes: OK, Canceled (one l), DeadlineExceeded, …
    special = {StatusCode.OK: "OK", StatusCode.CANCELLED: "Canceled"}
    return special.get(status) or "".join(word.capitalize() for word in status.name.split("_"))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
