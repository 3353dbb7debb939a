"""What a second version costs that has 90 % of its bytes in common with the first: disk, time and memory.

Both are packages of 600 MB in 1,500 files. The disk is asked by `du`, which counts a file with several names once.
Unpacking beside the first version is timed in turns with unpacking alone and with Info-ZIP, on a disk and durable
(the tree is synced, which for Info-ZIP is one `sync -f`), so that writing less shows.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import unpacking
from benchmarks.results import Result, at_most, shown
from oneagent.common.unpack import dedup, file_manifest, zip
from tests.fakes import packages

_NEXT: Final = "1.279.0.20231001-000000"

_CHILD: Final = """
import sys
from pathlib import Path
from oneagent.common.unpack import dedup, file_manifest, zip
archive, first, manifest, into = map(Path, sys.argv[1:])
def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
idle = kib("VmRSS")
existing = dedup.ExistingFiles([(first, file_manifest.Manifest.load(manifest))])
zip.unpack_agent(archive, into, existing=existing)
print((kib("VmHWM") - idle) / 1024)
"""


def run() -> list[Result]:
    with tempfile.TemporaryDirectory(dir="build", prefix="sharing-") as folder:
        place = Path(folder).absolute()
        first, second, into = place / "first", packages.build_large(place / "2.zip", _NEXT, changed=0.1), place / "into"
        manifest = zip.unpack_agent(packages.build_large(place / "1.zip"), first).manifest
        manifest.dump(place / "manifest.json")
        alone = _disk(first)

        def beside() -> None:
            present = dedup.ExistingFiles([(first, file_manifest.Manifest.load(place / "manifest.json"))])
            zip.unpack_agent(second, into, existing=present).make_durable()

        ways: dict[str, Callable[[], object]] = {
            "shared": beside,
            "alone": lambda: zip.unpack_agent(second, into).make_durable(),
        }
        if program := shutil.which("unzip"):
            command = f"{program} -q {second} -d {into} && sync -f {into}"
            ways["unzip"] = lambda: subprocess.run(["sh", "-c", command], check=True)
        seconds = unpacking.best_of(ways, into)
        beside()
        growth = (_disk(first, into) - alone) / manifest.unpacked_bytes
        shutil.rmtree(into)
        command_line = [sys.executable, "-c", _CHILD, str(second), str(first), str(place / "manifest.json"), str(into)]
        peak = float(subprocess.run(command_line, check=True, capture_output=True, text=True).stdout)
    return [
        at_most("second_version_growth", growth * 100, "%", 15.0),
        *(shown(f"second_version_{name}", value, "s") for name, value in seconds.items()),
        at_most("second_version_peak", peak, "MiB", 64.0),
    ]


def _disk(*places: Path) -> int:
    answer = subprocess.run(["du", "-sc", "--block-size=1", *places], check=True, capture_output=True, text=True)
    return int(answer.stdout.splitlines()[-1].split()[0])
