"""The states that rows can be in; apart from the models, which no running process imports."""

from __future__ import annotations

import enum


class VolumeState(enum.StrEnum):
    WAITING = "waiting"
    """Asked for; failed so far, or a call for it is under way."""
    MOUNTING = "mounting"
    """The intent: a mount may or may not be there. Only the mount table knows."""
    MOUNTED = "mounted"
    EMPTY = "empty"
    """Attempts used up: the pod runs with an empty folder, unmonitored."""


class VersionState(enum.StrEnum):
    WANTED = "wanted"
    DOWNLOADING = "downloading"
    UNPACKING = "unpacking"
    READY = "ready"
    FAILED = "failed"
    DAMAGED = "damaged"
