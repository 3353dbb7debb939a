"""Disk, time and memory of a second version that shares 90 % of its bytes with the first.

Both are packages of 600 MB in 1,500 files. `du` measures the disk; it counts hard links once. Unpacking
beside the first version is timed alternately with unpacking alone and with Info-ZIP. Each run ends with a sync of the
tree (`sync -f` for Info-ZIP), so that fewer writes take less time.
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
    with tempfile.TemporaryDirectory(dir="build", prefix="sharing-") as directory:
        root = Path(directory).absolute()
        first, second, target = root / "first", packages.build_large(root / "2.zip", _NEXT, changed=0.1), root / "into"
        manifest = zip.unpack_agent(packages.build_large(root / "1.zip"), first).manifest
        manifest.dump(root / "manifest.json")
        alone = _disk(first)

        def unpack_shared() -> None:
            existing = dedup.ExistingFiles([(first, file_manifest.Manifest.load(root / "manifest.json"))])
            zip.unpack_agent(second, target, existing=existing).make_durable()

        methods: dict[str, Callable[[], object]] = {
            "shared": unpack_shared,
            "alone": lambda: zip.unpack_agent(second, target).make_durable(),
        }
        if unzip := shutil.which("unzip"):
            command = f"{unzip} -q {second} -d {target} && sync -f {target}"
            methods["unzip"] = lambda: subprocess.run(["sh", "-c", command], check=True)
        seconds = unpacking.best_of(methods, target)
        unpack_shared()
        growth = (_disk(first, target) - alone) / manifest.unpacked_bytes
        shutil.rmtree(target)
        command_line = [sys.executable, "-c", _CHILD, str(second), str(first), str(root / "manifest.json"), str(target)]
        peak = float(subprocess.run(command_line, check=True, capture_output=True, text=True).stdout)
    return [
        at_most("second_version_growth", growth * 100, "%", 15.0),
        *(shown(f"second_version_{name}", value, "s") for name, value in seconds.items()),
        at_most("second_version_peak", peak, "MiB", 64.0),
    ]


def _disk(*places: Path) -> int:
    result = subprocess.run(["du", "-sc", "--block-size=1", *places], check=True, capture_output=True, text=True)
    return int(result.stdout.splitlines()[-1].split()[0])
