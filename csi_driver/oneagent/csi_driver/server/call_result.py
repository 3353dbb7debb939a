"""How a CSI call ends: the values of the metric's label `result` and of the log line."""

from __future__ import annotations

import enum


class CallResult(enum.StrEnum):
    OK = "ok"
    MOUNTED = "mounted"
    LAST_GOOD = "last_good"
    """Mounted with the last good version, because the desired one is not in the store."""
    ALREADY_MOUNTED = "already"
    EMPTY = "empty"
    """The retry limit is reached; the pod starts without an agent."""
    HOST = "host"
    CONF = "conf"
    """The pod's files only, by request."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    IN_FLIGHT = "in_flight"
    UNAVAILABLE = "unavailable"
    UNIMPLEMENTED = "unimplemented"
    ERROR = "error"
