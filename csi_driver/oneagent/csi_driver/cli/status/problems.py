"""Problems of a node that need an administrator: one sentence each, with the remedy where there is one.

Whatever the driver mends by itself within a minute is none: a version that is downloaded, a tenant that is polled,
a view that is being mounted. A version whose last attempt failed is one until an attempt succeeds, also during a retry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from oneagent.common import agents, remedies
from oneagent.common.identifiers import agent_version
from oneagent.common.node_report import DynaKubeStatus, Failure, NodeStatus, VersionStatus, VolumeStatus
from oneagent.csi_driver.cli.status import MISSING
from oneagent.csi_driver.metadata.states import VersionState, VolumeState

LITTLE_DISK_BYTES: Final = 256 << 20
"""Free space that the provisioner keeps by default; with less, pods can't write."""
FEW_INODES: Final = 10_000
"""Inodes that about three versions take."""
GRACE_SECONDS: Final = 60.0
_TRIED_AGAIN: Final = {VersionState.DOWNLOADING, VersionState.UNPACKING}
_IN_PROGRESS: Final = {VersionState.PENDING, VersionState.DOWNLOADING, VersionState.UNPACKING}


def add_problems(status: NodeStatus) -> NodeStatus:
    """Return the status with its `problems`."""
    return dataclasses.replace(status, problems=tuple(_find_problems(status)))


def _find_problems(status: NodeStatus) -> Iterator[str]:
    yield from status.unreadable
    if status.running.server is False:
        yield "the server is not running: new pods wait for their agent"
    if status.running.provisioner is False:
        yield "the provisioner is not running: no version is installed or removed"
    states = {row.version: row.state for row in status.versions}
    for version in status.versions:
        yield from _of_version(version, [failure for failure in status.failures if _waits_for(failure, version)])
    for kube in status.dynakubes:
        yield from _of_dynakube(kube, states.get(kube.version, ""), status.taken_at)
    for volume in status.volumes:
        yield from _of_volume(volume)
    for failure in status.failures:
        if any(_waits_for(failure, version) for version in status.versions):
            continue
        pod = f"pod {failure.namespace}/{failure.pod}"
        if failure.empty:
            yield f"{pod} runs without its agent ({failure.reason}); solve the cause, then restart the pod"
        else:
            yield f"{pod} can't start yet: attempt {failure.attempts} failed ({failure.reason})"
    if status.disk is not None and status.disk.free_bytes < LITTLE_DISK_BYTES:
        yield f"only {status.disk.free_bytes >> 20} MiB free on the disk of {status.data_dir}"
    if status.disk is not None and status.disk.total_inodes and status.disk.free_inodes < FEW_INODES:
        yield (
            f"only {status.disk.free_inodes} of {status.disk.total_inodes} inodes free on the disk of "
            f"{status.data_dir}: remove files there, however small"
        )


def _waits_for(failure: Failure, version: VersionStatus) -> bool:
    """Return True for a pod that waits only because the version could not be installed, which is one problem."""
    return not failure.empty and _has_failed(version) and bool(version.message) and version.message in failure.reason


def _has_failed(version: VersionStatus) -> bool:
    return version.state == VersionState.FAILED or (version.state in _TRIED_AGAIN and bool(version.message))


def _of_version(version: VersionStatus, waiting: Sequence[Failure]) -> Iterator[str]:
    name = agent_version(version.version)
    if _has_failed(version):
        cause, remedy = remedies.split(version.message)
        retry = "the provisioner retries" if version.state == VersionState.FAILED else f"retry: {version.state}"
        parts = [f"version {name} can't be installed: {cause}", _count_waiting(waiting), remedy, retry]
        yield "; ".join(filter(None, parts))
    elif version.state == VersionState.CORRUPT:
        detail = version.message or "its preload library is missing in the store"
        yield f"version {name} is corrupt: {detail}"
    elif version.state == MISSING and version.views:
        yield f"version {name} is mounted {version.views} times, but it is not in the store"


def _count_waiting(waiting: Sequence[Failure]) -> str:
    if not waiting:
        return ""
    first = f"pod {waiting[0].namespace}/{waiting[0].pod}"
    return f"{len(waiting)} pods wait for it, as {first}" if len(waiting) > 1 else f"{first} waits for it"


def _of_dynakube(kube: DynaKubeStatus, version_state: str, now: float) -> Iterator[str]:
    """Report a DynaKube whose pods wait, unless an install is in progress or reported as failed already."""
    if (
        (kube.in_store and kube.configured)
        or not kube.condition
        or version_state in {*_IN_PROGRESS, VersionState.FAILED}
    ):
        return
    if kube.since is None or now - kube.since >= GRACE_SECONDS:
        lacks = "configuration for its version" if kube.in_store else "version"
        yield f"{agents.describe_object(kube.name)} has no {lacks} on this node: {kube.condition}"


def _of_volume(volume: VolumeStatus) -> Iterator[str]:
    if volume.state == VolumeState.MOUNTED and volume.mounted is False:
        yield (
            f"nothing is mounted at {volume.target}, the volume of pod {volume.namespace}/{volume.pod}; "
            "restart the pod, or run this in the server's container, where the mounts are visible"
        )
