"""Diagnosis of one pod on its node: `collect` gathers evidence, `diagnose` draws the conclusion, `text` prints it."""

from __future__ import annotations

import enum
from typing import Final


class Reason(enum.StrEnum):
    """Diagnoses by a constant name, for programs."""

    MONITORED = "Monitored"
    PARTLY_MONITORED = "PartlyMonitored"
    NOT_LOADED = "NotLoaded"
    NO_PROCESS = "NoProcess"
    PROCESSES_NOT_SEEN = "ProcessesNotSeen"
    VERSION_CORRUPT = "VersionCorrupt"
    CANNOT_REPORT = "CannotReport"
    NOT_MOUNTED = "NotMounted"
    NO_AGENT_MOUNTED = "NoAgentMounted"
    WAITING = "Waiting"
    NO_VOLUME = "NoVolume"
    UNKNOWN = "Unknown"
    HOST_DIRECTORY = "HostDirectory"
    FILES_ONLY = "FilesOnly"


AS_INTENDED: Final = frozenset({Reason.MONITORED, Reason.HOST_DIRECTORY, Reason.FILES_ONLY})
"""Diagnoses that need no remedy: exit code 0."""
UNKNOWN: Final = frozenset({Reason.UNKNOWN, Reason.PROCESSES_NOT_SEEN})
"""Diagnoses that leave open if the pod has its agent: exit code 3."""
