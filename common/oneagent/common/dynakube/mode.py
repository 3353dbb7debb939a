"""The modes of a DynaKube: the section of `spec.oneAgent` that it has decides where agents run."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Mode(StrEnum):
    """The name of the section, as in `spec.oneAgent.applicationMonitoring`."""

    APPLICATION_MONITORING = "applicationMonitoring"
    CLASSIC_FULL_STACK = "classicFullStack"
    CLOUD_NATIVE_FULL_STACK = "cloudNativeFullStack"
    HOST_MONITORING = "hostMonitoring"
    NONE = "none"

    @property
    def injects(self) -> bool:
        """Pods of applications get an agent."""
        return self in (Mode.APPLICATION_MONITORING, Mode.CLOUD_NATIVE_FULL_STACK)

    @property
    def runs_on_hosts(self) -> bool:
        """Each node gets an agent."""
        return self in (Mode.CLASSIC_FULL_STACK, Mode.CLOUD_NATIVE_FULL_STACK, Mode.HOST_MONITORING)

    @property
    def has_host_volume(self) -> bool:
        """Host agents see the host read-only, and so keep their files in a volume of the CSI driver."""
        return self.runs_on_hosts and self is not Mode.CLASSIC_FULL_STACK

    @property
    def orchestration(self) -> str:
        """The mode as agents report it."""
        return _ORCHESTRATION[self]


MODES: Final = tuple(mode for mode in Mode if mode is not Mode.NONE)
"""Those that have a section."""

_ORCHESTRATION: Final = {
    Mode.APPLICATION_MONITORING: "application_monitoring",
    Mode.CLASSIC_FULL_STACK: "classic_fullstack",
    Mode.CLOUD_NATIVE_FULL_STACK: "cloud_native_fullstack",
    Mode.HOST_MONITORING: "host_monitoring",
    Mode.NONE: "none",
}
