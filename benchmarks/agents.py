"""A pod's volume with OpenTelemetry's agents: against one with OneAgent, and against a copy of the package.

A copy is what an init container makes that brings agents into a pod: `cp -r` of their directory into a volume. Each
turn publishes a volume of both kinds, in changing order; both have one container's files. Bytes and inodes are those
of the files, counted. Nothing is measured where the package is not built.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import floors, results
from benchmarks.results import Result
from oneagent.common.agents import opentelemetry
from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import store_key
from tests.fakes import node

_TREE: Final = Path("build/agent-package/tree")
_KEY: Final = store_key.of_version(Version("opentelemetry"), "the package")
_TURNS: Final = 300
_COPIES: Final = 5
_PODS: Final = 50
_RATIO: Final = 1.1
_POD: Final[dict[str, Any]] = {
    "containers": "app",
    "image.app": "registry.example.com/shop:1",
    "basePodName": "shop",
    "workloadKind": "Deployment",
    "workloadName": "shop",
}
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "oneagent": _POD,
    "opentelemetry": _POD | {"agent": opentelemetry.KIND, "dynakube": "shop"},
}


@dataclass(frozen=True)
class _Usage:
    bytes: int
    inodes: int


def run() -> list[Result]:
    if not _TREE.exists():
        sys.stderr.write("agents: the package is not built: make agent-package\n")
        return []
    with floors.running(within=_TREE.parent.absolute()) as (driver, kubelet):
        _add_version(driver.data)
        samples: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for turn in range(-20, _TURNS):
            for kind in sorted(_KINDS, reverse=turn % 2 == 0):
                took = _publish(kubelet, f"{kind}{turn}", kind)
                if turn >= 0:
                    samples[kind].append(took)
                kubelet.unpublish(f"{kind}{turn}")
        copies = [_copy(driver.place / f"copy{number}") for number in range(_COPIES)]
        before = _usage(driver.data.root)
        for pod in range(_PODS):
            _publish(kubelet, f"pod{pod}", "opentelemetry")
        os.sync()
        after = _usage(driver.data.root)
        for pod in range(_PODS):
            kubelet.unpublish(f"pod{pod}")
    medians = {kind: statistics.median(values) for kind, values in samples.items()}
    copy = statistics.median(seconds for seconds, _ in copies)
    each = copies[0][1]
    return [
        results.shown("opentelemetry_publish_ms", medians["opentelemetry"] * 1e3, "ms"),
        results.at_most(
            "opentelemetry_publish_ratio", medians["opentelemetry"] / medians["oneagent"], "x OneAgent's", _RATIO
        ),
        results.shown("opentelemetry_copy_ms", copy * 1e3, "ms"),
        results.shown("opentelemetry_copy_ratio", copy / medians["opentelemetry"], "x a publish"),
        results.shown("opentelemetry_50_pods_mib", (after.bytes - before.bytes) / 2**20, "MiB"),
        results.shown("opentelemetry_50_pods_inodes", after.inodes - before.inodes, "inodes"),
        results.shown("opentelemetry_50_copies_mib", _PODS * each.bytes / 2**20, "MiB"),
        results.shown("opentelemetry_50_copies_inodes", _PODS * each.inodes, "inodes"),
    ]


def _add_version(data: DataDir) -> None:
    """Put the package into the store, and say that the OpenTelemetryInjection `shop` wants it."""
    tree = data.tmp / "package.install"
    shutil.copytree(_TREE, tree)
    tree.rename(data.agent(_KEY))
    name = opentelemetry.PROFILE.name_prefix + "shop"
    conf = data.config_layer(TenantId(name), floors.LAYER) / opentelemetry.CONFIG_FILE
    conf.parent.mkdir(parents=True)
    conf.write_text("OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318\n")
    wanted = {"name": DynaKubeName(name), "tenant": TenantId(name), "version": _KEY, "layer": floors.LAYER}
    node.want(data, node.demo(layer=floors.LAYER), node.demo(**wanted))


def _publish(kubelet: node.Kubelet, pod: str, kind: str) -> float:
    """Seconds of the call."""
    kubelet.target(pod).parent.mkdir(parents=True, exist_ok=True)
    request = kubelet.request(pod, **_KINDS[kind])
    started = time.perf_counter()
    kubelet.node.NodePublishVolume(request, timeout=floors.CALL_SECONDS)
    return time.perf_counter() - started


def _copy(target: Path) -> tuple[float, _Usage]:
    """Seconds of a copy that is removed again, and what it takes."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", str(_TREE / "agent"), str(target)], check=True)
    took = time.perf_counter() - started
    os.sync()  # a file's blocks are known once it is written
    usage = _usage(target)
    shutil.rmtree(target)
    return took, usage


def _usage(tree: Path) -> _Usage:
    """Return what the files below a directory take, itself included."""
    found = [os.lstat(path) for path in (tree, *tree.rglob("*"))]
    return _Usage(sum(each.st_blocks for each in found) * 512, len(found))
