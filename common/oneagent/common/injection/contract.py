"""Names shared by all that put an agent into pods: node driver, webhook, init container and operator."""

from __future__ import annotations

from typing import Final

INIT_CONTAINER: Final = "install-oneagent"
BIN_VOLUME: Final = "oneagent-bin"
"""The agent: a view by the CSI driver, or an empty directory that the init container fills."""
SHARE_VOLUME: Final = "oneagent-share"
"""An empty directory for the files that the init container writes for each container."""
DATA_VOLUME: Final = "oneagent-data"
"""With a read-only view: an empty directory for the files that agents write."""
CONFIG_VOLUME: Final = "oneagent-config"
"""Without CSI: the namespace's Secret of injection, and a token for the package endpoint, projected."""

PRELOAD_LIBRARY: Final = "agent/lib64/liboneagentproc.so"
"""Path inside a view of the library that `LD_PRELOAD` names."""
WRITABLE_DIRECTORIES: Final = ("datastorage", "log")
"""Directories below its install path that an agent writes to. Read-only views and empty views have them too: they are
mount points for something writable, and a container whose mount point is missing does not start."""

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

# In the share directory, by container: mounted by subPath, so each container sees only its own.
CONTAINER_CONF: Final = "container_{container}.conf"
ENRICHMENT_DIRECTORY: Final = "enrichment"
CURL_OPTIONS: Final = "curl_options.conf"
"""The same for all containers; only there if `Variable.CONNECT_RETRY` is more than 0."""

# Inside the application's containers.
INSTALL_PATH: Final = "/opt/dynatrace/oneagent-paas"
CONTAINER_CONF_PATH: Final = "/var/lib/dynatrace/oneagent/agent/config/container.conf"
ENRICHMENT_PATH: Final = "/var/lib/dynatrace/enrichment"
CURL_OPTIONS_PATH: Final = "/var/lib/dynatrace/oneagent/agent/customkeys/curl_options.conf"


class Variable:
    """The init container's variables. Numbers and booleans are written as `3`, `true`, `false`."""

    FAILURE_POLICY: Final = "FAILURE_POLICY"
    """`silent` or `fail`; what is neither counts as `silent`"""
    MODE: Final = "MODE"
    """`provisioned` (a CSI view) or `installer` (to be downloaded); unset if the pod gets no agent"""
    ONEAGENT_INJECTED: Final = "ONEAGENT_INJECTED"
    ENRICHMENT_INJECTED: Final = "DATA_INGEST_INJECTED"
    DYNAKUBE: Final = "DYNAKUBE"
    VERSION: Final = "VERSION"
    """The agent's, if one is pinned for the pod; else that of the Secret."""
    FLAVOR: Final = "FLAVOR"
    TECHNOLOGIES: Final = "TECHNOLOGIES"
    """Comma-separated, or `all`; empty for those that the DynaKube names"""
    INSTALL_PATH: Final = "INSTALLPATH"
    VIEW_READ_ONLY: Final = "CSI_VOLUME_READONLY"
    HOST_TENANT: Final = "HOST_TENANT"
    """The tenant of the host agents that run on this pod's DynaKube's nodes; empty for none"""
    CONNECT_RETRY: Final = "INITIAL_CONNECT_RETRY_MS"
    POD_NAME: Final = "K8S_PODNAME"
    POD_UID: Final = "K8S_PODUID"
    BASE_POD_NAME: Final = "K8S_BASEPODNAME"
    NAMESPACE: Final = "K8S_NAMESPACE"
    NODE_NAME: Final = "K8S_NODE_NAME"
    CLUSTER_ID: Final = "K8S_CLUSTER_ID"
    WORKLOAD_KIND: Final = "DT_WORKLOAD_KIND"
    WORKLOAD_NAME: Final = "DT_WORKLOAD_NAME"
    RESOURCE_ATTRIBUTES: Final = "RESOURCE_ATTRIBUTES"
    """A JSON object of texts, which come before the pod's own metadata; unset for none"""
    CONTAINERS: Final = "CONTAINERS_COUNT"
    CONTAINER_NAME: Final = "CONTAINER_{number}_NAME"
    """From 1 on"""
    CONTAINER_IMAGE: Final = "CONTAINER_{number}_IMAGE"
