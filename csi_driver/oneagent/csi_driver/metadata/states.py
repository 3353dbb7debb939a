"""The states that rows can be in; apart from the models, which no running process imports."""

from __future__ import annotations

import enum


class VolumeState(enum.StrEnum):
    WAITING = "waiting"
    """Requested; every call has failed so far."""
    MOUNTED = "mounted"
    EMPTY = "empty"
    """Attempts used up: the pod runs with an empty view, unmonitored."""


class VersionState(enum.StrEnum):
    WANTED = "wanted"
    DOWNLOADING = "downloading"
    UNPACKING = "unpacking"
    READY = "ready"
    FAILED = "failed"
    CORRUPT = "corrupt"
