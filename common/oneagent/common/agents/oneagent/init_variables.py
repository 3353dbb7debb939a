"""Variables by which the webhook configures the init container of pods without CSI."""

from __future__ import annotations

from typing import Final


class Variable:
    """The init container's variables. Numbers and booleans are written as `3`, `true`, `false`."""

    FAILURE_POLICY: Final = "FAILURE_POLICY"
    """`silent` or `fail`; what is neither counts as `silent`"""
    MODE: Final = "MODE"
    """`installer`; unset if the pod gets no agent. Earlier releases set `provisioned` for a CSI view."""
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
    """Of earlier releases, like `MODE`"""
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
