"""Metrics of a sidecar's process, and the histogram that CSI sidecars keep of their calls, in Prometheus' text form.

The histogram's name, labels and buckets are those of the Go sidecars, so that existing dashboards go on working; the
numbers are written as Go writes them (`le="1"`, not `le="1.0"`). Not `prometheus_client`: that one brings
11 MiB to a process of 22.
"""

from __future__ import annotations

import os
import resource
import threading
from typing import Final

from oneagent.common import distribution
from oneagent.sidecars.grpc.protocol import StatusCode

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NAME: Final = "csi_sidecar_operations_seconds"
_BUILD_INFO: Final = "oneagent_build_info"
_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600)


def render_process(component: str) -> str:
    """Return the metrics that each process of the driver has: its version, start, CPU time, memory and descriptors."""
    lines = [
        f"# HELP {_BUILD_INFO} Always 1; the labels name the component and its version.",
        f"# TYPE {_BUILD_INFO} gauge",
        f'{_BUILD_INFO}{{component="{component}",version="{_escaped(distribution.version())}"}} 1',
        *_process_lines(),
    ]
    return "\n".join(lines) + "\n"


class Operations:
    """How many calls took how long, by driver, method and status."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, str], list[int]] = {}
        self._sums: dict[tuple[str, str, str], float] = {}

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
        return "\n".join(lines) + "\n" + render_process("livenessprobe")

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


def _process_lines() -> list[str]:
    """Names and meanings are those of Prometheus' client libraries."""
    # The name in brackets, field 2, may have spaces. Fields by proc_pid_stat(5): 22 starttime, 24 rss.
    fields = _read("/proc/self/stat").rpartition(")")[2].split()
    boot = next(line.split()[1] for line in _read("/proc/stat").splitlines() if line.startswith("btime "))
    started = int(boot) + int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    used = resource.getrusage(resource.RUSAGE_SELF)
    values = (
        ("cpu_seconds_total", "counter", "User and system CPU time in seconds", f"{used.ru_utime + used.ru_stime:.2f}"),
        ("open_fds", "gauge", "Number of open file descriptors", str(len(os.listdir("/proc/self/fd")))),
        (
            "resident_memory_bytes",
            "gauge",
            "Resident memory in bytes",
            str(int(fields[24 - 3]) * resource.getpagesize()),
        ),
        ("start_time_seconds", "gauge", "When the process started, in seconds since 1970", f"{started:.2f}"),
    )
    return [
        line
        for name, kind, text, value in values
        for line in (f"# HELP process_{name} {text}", f"# TYPE process_{name} {kind}", f"process_{name} {value}")
    ]


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _go_name(status: StatusCode) -> str:
    # Go's spelling of the codes: OK, Canceled (one l), DeadlineExceeded, …
    special = {StatusCode.OK: "OK", StatusCode.CANCELLED: "Canceled"}
    return special.get(status) or "".join(word.capitalize() for word in status.name.split("_"))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
