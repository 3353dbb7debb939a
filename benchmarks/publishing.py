"""How long a publish and an unpublish take, and whether that grows with the number of views on the node.

Each turn measures one call of ours and the floor beside it, in changing order. The floor of a publish is an
empty call on the same socket, one mkdir and one bare mount(2) of the same layers; of an unpublish an empty call,
umount2(2) and rmdir.

What a folder costs depends on the file system and on what else it is doing, so the same is measured once more on a
tmpfs, where hardly anything but our own work is left.
"""

from __future__ import annotations

import time
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import floors, results
from benchmarks.results import Result
from oneagent.common.proto.csi.v1 import csi_pb2
from tests.fakes import node

_WARM_UP: Final = 50
_TURNS: Final = 1_000
_GROWTH_TURNS: Final = 250
_FEW: Final = 10
_MANY: Final = 5_000
_RATIO: Final = 1.5
_TMPFS: Final = Path("/dev/shm")


@dataclass
class Samples:
    """Seconds of each part, one value a turn."""

    publish: list[float] = field(default_factory=list)
    unpublish: list[float] = field(default_factory=list)
    call: list[float] = field(default_factory=list)
    mount: list[float] = field(default_factory=list)
    publish_floor: list[float] = field(default_factory=list)
    unpublish_floor: list[float] = field(default_factory=list)


def run() -> list[Result]:
    disk = _measured(None)
    found = [
        results.at_most("publish_p50_ratio", _ratio(disk.publish, disk.publish_floor), "x", _RATIO),
        results.at_most("unpublish_p50_ratio", _ratio(disk.unpublish, disk.unpublish_floor), "x", _RATIO),
        *results.percentiles("publish", disk.publish),
        *results.percentiles("publish_floor", disk.publish_floor),
        *results.percentiles("unpublish", disk.unpublish),
        *results.percentiles("unpublish_floor", disk.unpublish_floor),
        results.shown("empty_call_p50_us", _median(disk.call) * 1e6, "µs"),
        results.shown("bare_mount_p50_us", _median(disk.mount) * 1e6, "µs"),
    ]
    # Below a user namespace not every kernel has overlays on a tmpfs.
    if _TMPFS.is_dir() and not floors.in_user_namespace():
        tmpfs = _measured(_TMPFS)
        found += [
            results.shown("publish_tmpfs_p50_ratio", _ratio(tmpfs.publish, tmpfs.publish_floor), "x"),
            results.shown("unpublish_tmpfs_p50_ratio", _ratio(tmpfs.unpublish, tmpfs.unpublish_floor), "x"),
            results.shown("publish_tmpfs_p50_us", _median(tmpfs.publish) * 1e6, "µs"),
        ]
    return found


def _measured(within: Path | None) -> Samples:
    with floors.running(within=within) as (driver, kubelet), floors.beside(driver, kubelet) as floor:
        turns("warm", _WARM_UP, kubelet, floor)
        return turns("turn", _TURNS, kubelet, floor)


def run_growth() -> list[Result]:
    """Few views, many, and few again, so that a machine that gets slower meanwhile counts for neither."""
    with floors.running() as (driver, kubelet), floors.beside(driver, kubelet) as floor:
        first, rest = [f"live{n}" for n in range(_FEW)], [f"live{n}" for n in range(_FEW, _MANY)]
        fill(kubelet, first)
        turns("warm", _WARM_UP, kubelet, floor)
        few = turns("before", _GROWTH_TURNS, kubelet, floor)
        fill(kubelet, rest)
        many = turns("many", 2 * _GROWTH_TURNS, kubelet, floor)
        drain(kubelet, rest)
        again = turns("after", _GROWTH_TURNS, kubelet, floor)
        drain(kubelet, first)
    publish = _median(many.publish) / _median(few.publish + again.publish)
    unpublish = _median(many.unpublish) / _median(few.unpublish + again.unpublish)
    mount = _median(many.mount) / _median(few.mount + again.mount)
    return [
        results.at_most("publish_growth_5000", publish / mount, "x", 2.0),
        results.shown("publish_growth_5000_absolute", publish, "x"),
        results.shown("unpublish_growth_5000_absolute", unpublish, "x"),
        results.shown("bare_mount_growth_5000", mount, "x"),
        results.shown("publish_at_5000_p50_us", _median(many.publish) * 1e6, "µs"),
    ]


def turns(prefix: str, count: int, kubelet: node.Kubelet, floor: floors.Floor) -> Samples:
    """Publish and unpublish `count` volumes, one at a time, with the floor beside each."""
    samples = Samples()
    for number in range(count):
        name = f"{prefix}{number}"
        kubelet.target(name).parent.mkdir(parents=True)
        floor.prepare(name)
        for floor_first in (True, False) if number % 2 else (False, True):
            if floor_first:
                call, mount = floor.call(), floor.mount(name)
                samples.call.append(call)
                samples.mount.append(mount)
                samples.publish_floor.append(call + mount)
            else:
                samples.publish.append(publish(kubelet, name))
        for floor_first in (True, False) if number % 2 else (False, True):
            if floor_first:
                samples.unpublish_floor.append(floor.call() + floor.unmount(name))
            else:
                samples.unpublish.append(unpublish(kubelet, name))
    return samples


def fill(kubelet: node.Kubelet, pods: list[str]) -> None:
    """Publish many at once, as fast as the driver takes them."""
    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda pod: kubelet.publish(pod, timeout=floors.CALL_SECONDS), pods))


def drain(kubelet: node.Kubelet, pods: list[str]) -> None:
    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda pod: kubelet.unpublish(pod, timeout=floors.CALL_SECONDS), pods))


def publish(kubelet: node.Kubelet, pod: str) -> float:
    """Return the seconds that a publish takes; the volume's parent directory is there."""
    request = kubelet.request(pod)
    started = time.perf_counter()
    kubelet.node.NodePublishVolume(request, timeout=floors.CALL_SECONDS)
    return time.perf_counter() - started


def unpublish(kubelet: node.Kubelet, pod: str) -> float:
    """Return the seconds that an unpublish takes."""
    request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=kubelet.volume_id(pod), target_path=str(kubelet.target(pod)))
    started = time.perf_counter()
    kubelet.node.NodeUnpublishVolume(request, timeout=floors.CALL_SECONDS)
    return time.perf_counter() - started


def _median(samples: list[float]) -> float:
    return results.quantile(samples, 50)


def _ratio(ours: list[float], floor: list[float]) -> float:
    return _median(ours) / _median(floor)
