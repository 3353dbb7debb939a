"""The fields of the newest DynaKube: one description for the CRD, the webhook, the operator and the docs.

Defaults are written into stored objects, so only what never changes its meaning has one here. What a field means
when it is not set stands in its text. Names that must exist (secrets, images, selectors) are checked where they are
used; here is what the API server can tell from the object alone. What concerns several fields, or takes more than a
pattern to say well, is the webhook's: whatever is refused here, it never sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from oneagent.common.dynakube import resource_attributes
from oneagent.common.dynakube.api.pod_fields import (
    conditions,
    pull_policy,
    resources,
    rolling_update,
    selector,
    tolerations,
    variables,
)
from oneagent.common.dynakube.api.schema import (
    RULES,
    Schema,
    anything,
    listing,
    moment,
    number,
    rule,
    section,
    switch,
    table,
    text,
)
from oneagent.common.dynakube.mode import MODES, Mode

HOST_MODES: Final = tuple(mode for mode in MODES if mode.runs_on_hosts)
"""Those with an agent on each node."""
INJECTING_MODES: Final = tuple(mode for mode in MODES if mode.injects)
"""Those that put an agent into applications' pods."""

OUT_OF_SCOPE: Final[Mapping[str, str]] = {
    "activeGate": "ActiveGate",
    "extensions": "extensions",
    "kspm": "Kubernetes security posture management",
    "kubernetesMonitoring": "ActiveGate",
    "logMonitoring": "log monitoring",
    "otlpExporterConfiguration": "telemetry ingest",
    "routing": "ActiveGate",
    "telemetryIngest": "telemetry ingest",
    "templates": "extensions, log monitoring and telemetry ingest",
}
"""Sections of `spec` that are accepted and stored without effect, by the product that they belong to."""

_NAME: Final = r"^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def _name(description: str) -> Schema:
    """The name of another object in the DynaKube's namespace; empty means that there is none."""
    return text(description, maxLength=253, pattern=_NAME)


def _attributes(description: str) -> Schema:
    return table(description, {"type": "string"}, maxProperties=resource_attributes.LIMIT)


_ADDITIONAL_ATTRIBUTES: Final[Mapping[str, Schema]] = {
    "additionalResourceAttributes": _attributes(
        "Resource attributes of the mode's hosts and pods. They take precedence over those in spec.resourceAttributes."
    ),
}

_HOST: Final[Mapping[str, Schema]] = {
    "image": text("Image of the host agent. If not set, the image in the tenant's registry."),
    "imagePullPolicy": pull_policy("Pull policy of the host agent's image. If not set, the default of Kubernetes."),
    "version": text(
        "Deprecated. Use image, and codeModulesImage for applications. Complete version of "
        "the agent, such as 1.277.0.20230914-094321. If not set, the tenant's latest "
        "version."
    ),
    "args": listing(
        "Arguments of the host agent, after those that the operator sets.",
        {"type": "string"},
        **{"x-kubernetes-list-type": "set"},
    ),
    "env": variables("Environment variables of the host agent."),
    "annotations": table("Annotations of the host agent's pods.", {"type": "string"}),
    "labels": table("Labels of the host agent's pods.", {"type": "string"}),
    "nodeSelector": table("Labels of the nodes that get a host agent. If not set, all nodes.", {"type": "string"}),
    "tolerations": tolerations("Tolerations of the host agent's pods."),
    "priorityClassName": text("Priority class of the host agent's pods."),
    "dnsPolicy": text(
        "DNS policy of the host agent's pods. If not set, ClusterFirstWithHostNet.",
        enum=["", "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    ),
    "secCompProfile": text(
        "Seccomp profile of the host agent: a path below kubelet's directory for profiles on the nodes."
    ),
    "storageHostPath": text(
        "Directory on the nodes for the state of the host agent, used without the CSI "
        "driver. If not set, /var/opt/dynatrace.",
        pattern="^$|^/",
    ),
    "oneAgentResources": resources("CPU and memory of the host agent."),
    "rollingUpdate": rolling_update("Rolling update of the host agents, as in a DaemonSet."),
    **_ADDITIONAL_ATTRIBUTES,
}

USE_CSI_DRIVER: Final = switch(
    "Mount the agent into pods with the CSI driver; if false, an init container "
    "downloads it. If not set, the CSI driver is used where it is installed."
)

_INJECTION: Final[Mapping[str, Schema]] = {
    "codeModulesImage": text(
        "Source of the agent for applications instead of the tenant: an image, a zip on the "
        "nodes (file:///path/to/archive.zip), or an OCI layout on the nodes "
        "(oci-layout:/path/of/layout:name)."
    ),
    "codeModulesImagePullPolicy": pull_policy(
        "Policy for the tag of codeModulesImage. Always: agents follow the tag. "
        "IfNotPresent: the first digest stays in use. Never: nodes download nothing, so "
        "name the image by its digest and preload it. If not set, Always."
    ),
    "codeModulesVersion": text(
        "Complete version of the agent for applications, such as 1.277.0.20230914-094321. "
        "If not set, the field version decides, then the tenant's latest version."
    ),
    "initResources": resources("CPU and memory of the init container in pods of applications."),
    "namespaceSelector": selector(
        "Labels of the namespaces whose pods get an agent. If not set, all namespaces except ignored ones."
    ),
    "useCSIDriver": USE_CSI_DRIVER,
    **_ADDITIONAL_ATTRIBUTES,
}


def _mode(description: str, own: Mapping[str, Schema]) -> Schema:
    """A mode is on if it is there, however empty; a name with nothing behind it is off."""
    return section(description, own, nullable=True)


_ONE_AGENT: Final = section(
    "Monitoring mode. Set at most one of the four modes.",
    {
        Mode.APPLICATION_MONITORING.value: _mode(
            "Agents in pods of applications, and none on the nodes.",
            {
                "version": text(
                    "Deprecated. Use codeModulesImage or codeModulesVersion. Complete version of the "
                    "agent. If not set, the tenant's latest version."
                ),
                **_INJECTION,
            },
        ),
        Mode.CLASSIC_FULL_STACK.value: _mode(
            "A host agent on each node, which also injects into processes in containers by itself.", _HOST
        ),
        Mode.CLOUD_NATIVE_FULL_STACK.value: _mode(
            "A host agent on each node, and agents in pods of applications.", {**_HOST, **_INJECTION}
        ),
        Mode.HOST_MONITORING.value: _mode("A host agent on each node, and none in pods of applications.", _HOST),
        "hostGroup": text("Host group of all hosts. It takes precedence over --set-host-group in the mode's args."),
    },
)

# The tenant is the first label of the host, or what follows /e/ where one host serves many.
_TENANT: Final = "({0}.matches('/e/[^/]+/') ? {0}.find('/e/[^/]+') : {0}.find('//[^./]+'))"

_API_URL: Final = text(
    "URL of the tenant's API: https://ENVIRONMENT/api. Without it, codeModulesImage has "
    "to be at file:// or oci-layout: on the nodes.",
    maxLength=512,
    **{
        RULES: [
            rule(
                f"oldSelf == '' || {_TENANT.format('self')} == {_TENANT.format('oldSelf')}",
                "The API URL leads to another tenant than before. Make sure that the tenant stays the same, or delete "
                "the DynaKube and create a new one.",
            ),
        ]
    },
)

SPEC: Final = section(
    "Desired state.",
    {
        "apiUrl": _API_URL,
        "tokens": _name(
            "Secret with the tenant's token at the key apiToken, and optionally paasToken. If "
            "not set, the Secret with the DynaKube's name."
        ),
        "oneAgent": _ONE_AGENT,
        "metadataEnrichment": section(
            "Metadata files in pods of applications, which name pod, workload and cluster.",
            {
                "enabled": switch(
                    "Write the files also into pods without an agent. Pods with an agent always get "
                    "them. If not set, false."
                ),
                "namespaceSelector": selector(
                    "Labels of the namespaces whose pods get the files without an agent. If not set, "
                    "all namespaces except ignored ones."
                ),
                "initResources": resources(
                    "CPU and memory of the init container in pods that get the files and no agent. If "
                    "not set, the mode's initResources."
                ),
            },
        ),
        "resourceAttributes": _attributes(
            "Resource attributes of all hosts and pods. Keys and values have the same form as those of labels."
        ),
        "publicRegistryOverride": text(
            "Host of the public registry for images, such as public.ecr.aws, if the feature "
            "flag use-public-registry is set. If not set, the tenant's choice."
        ),
        "networkZone": text("Network zone of all agents."),
        "proxy": section(
            "HTTP proxy for requests to the tenant and to registries, by this product and by agents.",
            {
                "value": text("URL of the proxy, without a password. It takes precedence over valueFrom."),
                "valueFrom": _name("Secret with the URL of the proxy at the key proxy; this URL may have a password."),
            },
        ),
        "trustedCAs": _name(
            "ConfigMap with CA certificates in PEM form at the key certs, which are trusted in "
            "addition to the system's."
        ),
        "skipCertCheck": switch("Do not verify TLS certificates of the tenant and of registries.", default=False),
        "customPullSecret": _name("Pull Secret for images. If not set, credentials are made from the tenant's token."),
        "dynatraceApiRequestThreshold": number(
            "Minutes between two requests of the same kind to the tenant. If not set, 15.", minimum=0, maximum=65535
        ),
        "enableIstio": switch(
            "Accepted and stored, but without effect: Istio rules for the tenant's hosts.", default=False
        ),
        **{
            name: anything(f"Accepted and stored, but without effect: {product}.")
            for name, product in OUT_OF_SCOPE.items()
        },
    },
)


def _versions(what: str, **more: Schema) -> Schema:
    return section(
        f"Version of {what}.",
        {
            "version": text("Desired version."),
            "imageID": text("Desired image, with its digest."),
            "source": text("Origin of the decision: tenant-registry, custom-image, custom-version or public-registry."),
            "lastProbeTimestamp": moment("Time of the last request for the version."),
            **more,
        },
    )


STATUS: Final = section(
    "Observed state, written by the operator.",
    {
        "phase": text("Summary of the conditions: Running, Deploying or Error."),
        "mode": text("Monitoring mode in effect."),
        "updatedTimestamp": moment("Time of the last change of the status."),
        "kubeSystemUUID": text("Identity of the cluster: the UID of the namespace kube-system."),
        "conditions": conditions("Conditions. Ready summarizes all others."),
        "oneAgent": _versions(
            "the host agents",
            instances=table(
                "Host agents, by node name.",
                section(
                    "A host agent.", {"podName": text("Name of its pod."), "ipAddress": text("IP address of the node.")}
                ),
            ),
            lastInstanceStatusUpdate=moment("Time of the last change of instances."),
            healthcheck=anything("Health check of the host agent's image."),
            connectionInfoStatus=section(
                "Connection of agents to the tenant.",
                {
                    "tenantUUID": text("ID of the tenant."),
                    "endpoints": text("Endpoints of the tenant for agents, separated by semicolons."),
                    "lastRequest": moment("Time of the last request for the endpoints."),
                    "communicationHosts": listing(
                        "Endpoints, each in parts.",
                        section(
                            "An endpoint.",
                            {
                                "protocol": text("Protocol, https or http."),
                                "host": text("Host name or IP address."),
                                "port": number("Port.", format="int32"),
                            },
                        ),
                    ),
                },
            ),
        ),
        "codeModules": _versions(
            "the agent for applications",
            tenantConfig=text("Digest of the tenant's responses in the Secret <name>.tenant-config, which nodes read."),
        ),
        "dynatraceApi": section(
            "Use of the tenant's API.", {"lastTokenScopeRequest": moment("Time of the last check of the tokens.")}
        ),
    },
)

DYNAKUBE: Final = section(
    "A DynaKube connects the cluster to a tenant: it selects the agents, and the nodes and namespaces that get them.",
    {
        "apiVersion": text("API version of this object."),
        "kind": text("Kind of this object: DynaKube."),
        "metadata": {"type": "object"},
        "spec": SPEC,
        "status": STATUS,
    },
)
