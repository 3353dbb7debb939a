"""Speed and peak memory of unpacking an agent package, compared with `zipfile`, Info-ZIP and GNU tar.

All unpack the same files (600 MB, 1,500 files) to a tmpfs, in turns, so that other load on the machine affects all of
them alike; the best of each counts. Only our unpacker hashes every file. There is room for early files, as on most
nodes. The peak is that of a fresh process, above its memory just before it unpacks.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypedDict

from oneagent.common.unpack import early_files, image, zip
from tests.fakes import packages

_TURNS: Final = 5
_TMPFS: Final = Path("/dev/shm")

_CHILD: Final = """
import sys
from pathlib import Path
from oneagent.common.unpack import early_files, image, zip
def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
idle = kib("VmRSS")
package, into = Path(sys.argv[1]), Path(sys.argv[2])
if package.suffix == ".zip":
    zip.unpack_agent(package, into)
else:
    into.mkdir()
    image.read([package], early=early_files.EarlyFiles(into, 1 << 40)).unpack(into)
print((kib("VmHWM") - idle) / 1024)
"""


class Result(TypedDict):
    """One measured value; `ok` if it meets its target."""

    name: str
    value: float
    unit: str
    target: str
    ok: bool


def run() -> list[Result]:
    with tempfile.TemporaryDirectory(dir=_TMPFS if _TMPFS.is_dir() else None, prefix="unpacking-") as directory:
        archive = packages.build_large(Path(directory) / "agent.zip")
        into = Path(directory) / "into"
        ways: dict[str, Callable[[], object]] = {
            "unpack": lambda: zip.unpack_agent(archive, into),
            "zipfile": lambda: _extractall(archive, into),
        }
        if program := shutil.which("unzip"):
            command = [program, "-q", str(archive), "-d", str(into)]
            ways["unzip"] = lambda: subprocess.run(command, check=True)
        layer = _layer(archive, Path(directory))
        ways["image"] = lambda: _unpack_image(layer, into)
        ways["tar"] = lambda: _untar(layer, into)
        seconds = best_of(ways, into)
        peaks = {package: _peak_mib(package, into) for package in (archive, layer)}
    results = [
        _result("unpack_vs_" + name, seconds[name] / seconds["unpack"], "x", target)
        for name, target in (("zipfile", 3.0), ("unzip", 4.0))
        if name in seconds
    ]
    results.append(_result("unpack_image_vs_tar", seconds["tar"] / seconds["image"], "x", 2.5))
    return results + [
        _result(f"unpack_{name}peak_mib", peaks[package], "MiB", 64.0, least=False)
        for name, package in (("", archive), ("image_", layer))
    ]


def _layer(archive: Path, directory: Path) -> Path:
    """Write the package's files as the layer of an image."""
    tree = directory / "tree"
    zip.unpack_agent(archive, tree)
    layer = directory / "layer.tar.gz"
    subprocess.run(["tar", "-C", str(tree), "-czf", str(layer), "."], check=True)
    shutil.rmtree(tree)
    return layer


def _unpack_image(layer: Path, into: Path) -> None:
    into.mkdir()
    image.read([layer], early=early_files.EarlyFiles(into, 1 << 40)).unpack(into)


def _untar(layer: Path, into: Path) -> None:
    into.mkdir()
    subprocess.run(["tar", "-C", str(into), "-xzf", str(layer)], check=True)


def _extractall(archive: Path, into: Path) -> None:
    with zipfile.ZipFile(archive) as package:
        package.extractall(into)


def best_of(ways: dict[str, Callable[[], object]], into: Path) -> dict[str, float]:
    """Return the seconds of the best turn of each way, which fills `into`."""
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(_TURNS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            shutil.rmtree(into)
    return seconds


def _peak_mib(archive: Path, into: Path) -> float:
    command = [sys.executable, "-c", _CHILD, str(archive), str(into)]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(into)
    return float(child.stdout)


def _result(name: str, value: float, unit: str, target: float, *, least: bool = True) -> Result:
    met = value >= target if least else value <= target
    sign = "≥" if least else "≤"
    return Result(name=name, value=round(value, 2), unit=unit, target=f"{sign} {target:g}", ok=met)


if __name__ == "__main__":
    for result in run():
        sys.stdout.write(f"{result}\n")
