"""`install-oneagent`: the init container that gets a pod's agent ready before the first application starts.

It runs again over what an earlier run has left: after a restart, after a reboot, after it was killed anywhere. So
every file is replaced by a rename, and an agent that is not whole is never where it would be loaded.

    InstallError         one sentence for people: what is wrong, and what to do about it
    ├── SettingsError    the variables
    ├── ShareError       a file for the application's containers could not be written
    ├── NoAgentError     with CSI: the volume has no agent
    └── DownloadError    without CSI: the agent could not be downloaded, unpacked or configured
"""

from __future__ import annotations


class InstallError(Exception):
    """A container stays without its agent, or the agent without its files."""


class SettingsError(InstallError):
    """A variable is missing or invalid."""


class ShareWriteError(InstallError):
    """A file could not be written to the share directory."""


class NoAgentError(InstallError):
    """The view is empty or has no agent."""


class DownloadError(InstallError):
    """The agent could not be downloaded, unpacked or configured."""
