"""States of rows; separate from the models, which no running process imports."""

from __future__ import annotations

import enum


class VolumeState(enum.StrEnum):
    WAITING = "waiting"
    """Requested; every call has failed so far."""
    MOUNTED = "mounted"
    WRITTEN = "written"
    """The pod asked for its files only (mode `conf`), which are there; nothing is mounted."""
    EMPTY = "empty"
    """No attempts left: the pod runs with an empty view, unmonitored."""


class VersionState(enum.StrEnum):
    PENDING = "pending"
    DOWNLOADING = "downloading"
    UNPACKING = "unpacking"
    READY = "ready"
    FAILED = "failed"
    CORRUPT = "corrupt"
