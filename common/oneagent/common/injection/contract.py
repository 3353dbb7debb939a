"""Names shared by all that put an agent into pods: node driver, webhook, init container and operator."""

from __future__ import annotations

from typing import Final

INIT_CONTAINER: Final = "install-oneagent"
BIN_VOLUME: Final = "oneagent-bin"
"""The agent: a view by the CSI driver, or an empty directory that the init container fills."""
SHARE_VOLUME: Final = "oneagent-share"
"""Without CSI: an empty directory for the files that the init container writes for each container."""
DATA_VOLUME: Final = "oneagent-data"
"""With a read-only view: an empty directory for the files that agents write."""
CONFIG_VOLUME: Final = "oneagent-config"
"""Without CSI: the namespace's Secret of injection, and a token for the package endpoint, projected."""

AGENT_NOT_MOUNTED: Final = "AgentNotMounted"
LAST_GOOD_MOUNTED: Final = "LastGoodAgentMounted"
"""Reasons of the Events about pods that got an empty view, or an older version than the desired one."""
POD_WITHOUT_AGENT: Final = "PodWithoutAgent"
"""Reason of the Event about a DynaKube whose pod, which is the related object, got an empty view. It is in the driver's
namespace, where users can write none: the webhook counts these."""

PACKAGE_AUDIENCE: Final = "oneagent-packages"
"""Audience of the service account tokens that the operator's package server accepts."""

# Inside the init container.
BIN_DIRECTORY: Final = "/mnt/bin"
SHARE_DIRECTORY: Final = "/mnt/share"
CONFIG_DIRECTORY: Final = "/mnt/config"
INJECTION_FILE: Final = "injection.json"
"""In the config directory: the value of this key in `INJECTION_SECRET`, an `injection.secret.Injection`."""
TOKEN_FILE: Final = "token"  # noqa: S105
"""In the config directory: a service account's token for the package endpoint's audience."""
INJECTION_SECRET: Final = "oneagent-injection"  # noqa: S105

PULL_SECRET: Final = "oneagent-image-pull"  # noqa: S105
"""Without CSI: the Secret in each namespace with credentials for the init container's image, if there are any."""

VIEW_FILES_DIRECTORY: Final = "agent/conf"
"""In a volume by the CSI driver: the directory of the pod's own files."""
AGENT_SUBDIRECTORY: Final = "bin"
"""In a volume for a pod with a user namespace: the agent, beside the directory with the pod's own files"""
