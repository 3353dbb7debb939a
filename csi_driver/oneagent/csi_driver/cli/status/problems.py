"""What of a node's state needs a person: one sentence each, with the remedy where there is one.

What puts itself right within a minute is none: a version on its way, a tenant that is being asked, a view that
is being mounted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from oneagent.csi_driver.cli.status import MISSING, DynaKubeStatus, Status, VersionStatus, VolumeStatus
from oneagent.csi_driver.metadata.states import VersionState, VolumeState

LITTLE_DISK_BYTES: Final = 256 << 20
"""The provisioner keeps so much free unless it is told otherwise; with less, pods can't write."""
PATIENCE_SECONDS: Final = 60.0
_ON_THE_WAY: Final = {VersionState.WANTED, VersionState.DOWNLOADING, VersionState.UNPACKING}


def judge(status: Status) -> Status:
    """The same status with its `problems`."""
    return dataclasses.replace(status, problems=tuple(_problems(status)))


def _problems(status: Status) -> Iterator[str]:
    yield from status.unreadable
    if status.running.server is False:
        yield "the server is not running: new pods wait for their agent"
    if status.running.provisioner is False:
        yield "the provisioner is not running: no version is installed or removed"
    states = {row.version: row.state for row in status.versions}
    for version in status.versions:
        yield from _of_version(version)
    for kube in status.dynakubes:
        yield from _of_dynakube(kube, states.get(kube.version, ""), status.taken_at)
    for volume in status.volumes:
        yield from _of_volume(volume)
    for failure in status.failures:
        who = f"pod {failure.namespace}/{failure.pod}"
        if failure.empty:
            yield f"{who} runs without its agent ({failure.reason}); restart it once the cause is gone"
        else:
            yield f"{who} can't start yet: attempt {failure.attempts} failed ({failure.reason})"
    if status.disk is not None and status.disk.free_bytes < LITTLE_DISK_BYTES:
        yield f"only {status.disk.free_bytes >> 20} MiB are free on the disk of {status.data_dir}"


def _of_version(version: VersionStatus) -> Iterator[str]:
    if version.state == VersionState.FAILED:
        yield f"version {version.version} can't be installed: {version.message}; it is tried again from time to time"
    elif version.state == VersionState.DAMAGED:
        why = version.message or "its preload library is missing in the store"
        yield f"version {version.version} is damaged: {why}"
    elif version.state == MISSING and version.views:
        yield f"version {version.version} is mounted {version.views} times, but it is not in the store"


def _of_dynakube(kube: DynaKubeStatus, version_state: str, now: float) -> Iterator[str]:
    """A DynaKube without its version, unless that is on its way or has its own sentence already."""
    if kube.in_store or not kube.condition or version_state in {*_ON_THE_WAY, VersionState.FAILED}:
        return
    if kube.since is None or now - kube.since >= PATIENCE_SECONDS:
        yield f"DynaKube {kube.name} has no version on this node: {kube.condition}"


def _of_volume(volume: VolumeStatus) -> Iterator[str]:
    if volume.state == VolumeState.MOUNTED and volume.mounted is False:
        yield (
            f"nothing is mounted at {volume.target}, the volume of pod {volume.namespace}/{volume.pod}; "
            "restart the pod, or look from the server's container, where the mounts are seen"
        )
