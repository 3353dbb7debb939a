"""Demand markers: empty files that the server leaves for the provisioner, named by a version that a pod waits for.

Where the version is not known yet, they are named by the DynaKube. The provisioner may delay the download of a version
without demand, and the reading of a tenant's answers, but not where a pod waits for them. A marker is a hint: a lost
one costs time, a leftover costs nothing. So markers are not synced, and write errors are ignored.
"""

from __future__ import annotations

import contextlib
import os

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.data_dir import DataDir


def of_dynakube(name: DynaKubeName) -> Version:
    """Return what marks a DynaKube whose version is not known yet, in place of a version."""
    return Version(f"dynakube_{name}")


def mark(data: DataDir, version: Version) -> None:
    """Mark that a pod waits for this version; nothing for an empty one."""
    if version:
        with contextlib.suppress(OSError):
            os.close(os.open(data.demand_marker(version), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def list_versions(data: DataDir) -> set[Version]:
    """Return the versions that pods have waited for."""
    try:
        return {Version(name) for name in os.listdir(data.demand)}
    except OSError:
        return set()


def clear(data: DataDir, version: Version) -> None:
    """Remove the marker of a version that is in the store."""
    with contextlib.suppress(OSError):
        os.unlink(data.demand_marker(version))
