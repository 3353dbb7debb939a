"""What installs leave in the provisioner's memory, and what the process that unpacks a package costs them.

The provisioner is idle once it has asked its tenant, which has no package yet. Then it installs three versions, each
of 3,000 files. The cost of the process is the median of a small package's time with it, less the time without.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import results
from benchmarks.results import Result
from oneagent.common.unpack import zip
from oneagent.csi_driver.provisioner.unpacker.messages import PackageContent
from oneagent.csi_driver.provisioner.unpacker.process import Unpacker
from tests.fakes import packages, provisioner, tenant
from tests.fakes.provisioner import Process, eventually, manifest

_VERSIONS: Final = tuple(f"1.30{number}.0.20240101-000000" for number in range(3))
_ABSENT: Final = "1.309.0.20240101-000000"
_IDLE_SECONDS: Final = 3.0
_PATIENCE_SECONDS: Final = 120.0
_TURNS: Final = 15
_MAX_GROWTH_MIB: Final = 3.0
_MAX_CHILD_MS: Final = 150.0


def run() -> list[Result]:
    idle, after = _memory()
    return [
        results.shown("rss_provisioner_before_installs_mib", idle, "MiB"),
        results.at_most("rss_provisioner_after_installs_mib", after, "MiB", round(idle + _MAX_GROWTH_MIB, 2)),
        results.at_most("install_child_ms", _child_seconds() * 1000, "ms", _MAX_CHILD_MS),
    ]


def _memory() -> tuple[float, float]:
    """Return the provisioner's resident MiB before and after three installs."""
    with (
        tempfile.TemporaryDirectory(prefix="installing-") as directory,
        tenant.Tenant() as server,
        provisioner.running(Path(directory)) as process,
    ):
        process.set_dynakubes(manifest("demo", server.api_url, version=_ABSENT))
        eventually(lambda: "404" in process.row().get("condition", ""), _PATIENCE_SECONDS)
        time.sleep(_IDLE_SECONDS)
        idle = _resident_mib(process)
        for number, version in enumerate(_VERSIONS):
            archive = Path(directory) / f"{version}.zip"
            packages.build_large(archive, version, megabytes=60, files=3000, seed=number)
            server.release(version, archive)
        dynakubes = [manifest(f"demo{number}", server.api_url, version=v) for number, v in enumerate(_VERSIONS)]
        process.set_dynakubes(*dynakubes)
        for number, version in enumerate(_VERSIONS):
            process.await_ready(version, f"demo{number}", _PATIENCE_SECONDS)
        time.sleep(_IDLE_SECONDS)
        return idle, _resident_mib(process)


def _child_seconds() -> float:
    with tempfile.TemporaryDirectory(prefix="installing-") as directory:
        archive = packages.build(Path(directory) / "agent.zip")
        content, unpacker = PackageContent("zip", (archive,)), Unpacker()

        def unpack_in_child(into: Path) -> None:
            unpacker.unpack(content, into, [], cancelled=lambda: False, make_room=lambda _bytes: None)

        def unpack_here(into: Path) -> None:
            zip.read(archive).unpack(into).make_durable()

        return _median_seconds(unpack_in_child, Path(directory)) - _median_seconds(unpack_here, Path(directory))


def _median_seconds(unpack: Callable[[Path], None], place: Path) -> float:
    taken = []
    for number in range(_TURNS):
        started = time.perf_counter()
        unpack(place / f"{unpack.__name__}{number}")
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _resident_mib(process: Process) -> float:
    assert process.process is not None
    lines = Path(f"/proc/{process.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
