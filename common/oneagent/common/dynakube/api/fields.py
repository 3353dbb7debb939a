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
"""Sections of `spec` that are taken and kept but not acted on, by the product that they belong to."""

_NAME: Final = r"^$|^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def _name(description: str) -> Schema:
    """The name of another object in the DynaKube's namespace; empty means that there is none."""
    return text(description, maxLength=253, pattern=_NAME)


def _attributes(description: str) -> Schema:
    return table(description, {"type": "string"}, maxProperties=resource_attributes.LIMIT)


_ADDITIONAL_ATTRIBUTES: Final[Mapping[str, Schema]] = {
    "additionalResourceAttributes": _attributes(
        "Resource attributes of the hosts and pods that get an agent. Each comes before the one of the same key in "
        "spec.resourceAttributes."
    ),
}

_HOST: Final[Mapping[str, Schema]] = {
    "image": text("Image of the host agent. The tenant's own image if not set."),
    "imagePullPolicy": pull_policy("Pull policy of the host agent's image. That of Kubernetes if not set."),
    "version": text(
        "Deprecated. Use image, and codeModulesImage for applications. Version of the agent, complete, such as "
        "1.277.0.20230914-094321. The tenant's newest one if not set."
    ),
    "args": listing(
        "Arguments of the host agent, after those that the operator gives.",
        {"type": "string"},
        **{"x-kubernetes-list-type": "set"},
    ),
    "env": variables("Variables of the host agent."),
    "annotations": table("Annotations of the host agent's pods.", {"type": "string"}),
    "labels": table("Labels of the host agent's pods.", {"type": "string"}),
    "nodeSelector": table("Labels of the nodes that get a host agent; all nodes if not set.", {"type": "string"}),
    "tolerations": tolerations("Taints that the host agent's pods tolerate."),
    "priorityClassName": text("Priority class of the host agent's pods."),
    "dnsPolicy": text(
        "DNS policy of the host agent's pods. ClusterFirstWithHostNet if not set.",
        enum=["", "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    ),
    "secCompProfile": text("Seccomp profile of the host agent: the path of a profile on the nodes."),
    "storageHostPath": text(
        "Directory on the nodes where the host agent keeps its state if there is no CSI driver. "
        "/var/opt/dynatrace if not set.",
        pattern="^$|^/",
    ),
    "oneAgentResources": resources("CPU and memory of the host agent."),
    "rollingUpdate": rolling_update("How host agents are replaced, as in a DaemonSet."),
    **_ADDITIONAL_ATTRIBUTES,
}

USE_CSI_DRIVER: Final = switch(
    "Mount the agent into applications' pods through the CSI driver. "
    "Through the CSI driver where it is installed if not set."
)

_INJECTION: Final[Mapping[str, Schema]] = {
    "codeModulesImage": text(
        "Source of the agent for applications in place of the tenant: an image; or what is on "
        "the nodes, a package at file:///path/to/archive.zip or an OCI layout, oci-layout:/path/of/layout:name."
    ),
    "codeModulesImagePullPolicy": pull_policy(
        "When nodes look for codeModulesImage. IfNotPresent: a tag that moves is not followed. Never: nothing is "
        "downloaded, so the image has to be preloaded by its digest. Otherwise tags are followed."
    ),
    "codeModulesVersion": text(
        "Version of the agent for applications, complete, such as 1.277.0.20230914-094321. The version if not set."
    ),
    "initResources": resources("CPU and memory of the init container that applications' pods get."),
    "namespaceSelector": selector("Namespaces whose pods get an agent; all that are not ignored if not set."),
    "useCSIDriver": USE_CSI_DRIVER,
    **_ADDITIONAL_ATTRIBUTES,
}


def _mode(description: str, own: Mapping[str, Schema]) -> Schema:
    """A mode is on if it is there, however empty; a name with nothing behind it is off."""
    return section(description, own, nullable=True)


_ONE_AGENT: Final = section(
    "Where agents run. At most one of the four modes.",
    {
        Mode.APPLICATION_MONITORING.value: _mode(
            "An agent in applications' pods, and none on the nodes.",
            {
                "version": text(
                    "Deprecated. Use codeModulesImage or codeModulesVersion. Version of the agent, complete. "
                    "The tenant's newest one if not set."
                ),
                **_INJECTION,
            },
        ),
        Mode.CLASSIC_FULL_STACK.value: _mode(
            "An agent on each node, which looks into the containers by itself.", _HOST
        ),
        Mode.CLOUD_NATIVE_FULL_STACK.value: _mode(
            "An agent on each node for the host, and one in applications' pods.", {**_HOST, **_INJECTION}
        ),
        Mode.HOST_MONITORING.value: _mode("An agent on each node for the host, and none in applications.", _HOST),
        "hostGroup": text("Host group of all hosts. It comes before --set-host-group in a mode's arguments."),
    },
)

# The tenant is the first label of the host, or what follows /e/ where one host serves many.
_TENANT: Final = "({0}.matches('/e/[^/]+/') ? {0}.find('/e/[^/]+') : {0}.find('//[^./]+'))"

_API_URL: Final = text(
    "The tenant's API, https://ENVIRONMENT/api. Without it only packages from file:// and oci-layout: can be used.",
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
    "The desired state.",
    {
        "apiUrl": _API_URL,
        "tokens": _name("Secret with the keys apiToken and, if used, paasToken. The DynaKube's own name if not set."),
        "oneAgent": _ONE_AGENT,
        "metadataEnrichment": section(
            "Metadata for applications: files in their pods that name pod, workload and cluster.",
            {
                "enabled": switch(
                    "Write the files also into pods without an agent. Off if not set. Pods with one always get them."
                ),
                "namespaceSelector": selector(
                    "Namespaces whose pods get them without an agent, too; all that are not ignored if not set."
                ),
                "initResources": resources(
                    "CPU and memory of the init container of pods that get the files and no agent. The mode's "
                    "initResources if not set."
                ),
            },
        ),
        "resourceAttributes": _attributes(
            "Resource attributes that are added to the metadata of all hosts and pods. Keys and values have the "
            "form of labels'."
        ),
        "publicRegistryOverride": text(
            "Host of the public registry that images come from, such as public.ecr.aws, where the flag "
            "use-public-registry is set. The tenant's choice if not set."
        ),
        "networkZone": text("Network zone of all agents."),
        "proxy": section(
            "The proxy between here and the tenant.",
            {
                "value": text("Its URL, without a password. It comes before valueFrom."),
                "valueFrom": _name("Secret whose key proxy holds the URL."),
            },
        ),
        "trustedCAs": _name("ConfigMap whose key certs holds certificates (PEM) that are trusted besides the usual."),
        "skipCertCheck": switch("Do not check the tenant's certificate.", default=False),
        "customPullSecret": _name("Pull secret for images. One made from the tenant's tokens if not set."),
        "dynatraceApiRequestThreshold": number(
            "Minutes between two questions of the same kind to the tenant. 15 if not set.", minimum=0, maximum=65535
        ),
        "enableIstio": switch("Taken and kept, not acted on: allow the tenant's hosts in Istio.", default=False),
        **{name: anything(f"Taken and kept, not acted on: {product}.") for name, product in OUT_OF_SCOPE.items()},
    },
)


def _versions(what: str, **more: Schema) -> Schema:
    return section(
        f"The version of {what}.",
        {
            "version": text("The version that is wanted."),
            "imageID": text("The image that is wanted, with its digest."),
            "source": text("Origin of the decision: tenant-registry, custom-image, custom-version or public-registry."),
            "lastProbeTimestamp": moment("When the version was last asked for."),
            **more,
        },
    )


STATUS: Final = section(
    "The observed state, written by the operator.",
    {
        "phase": text("Running, Deploying or Error: the condition Ready in one word."),
        "mode": text("The OneAgent mode that is acted on."),
        "updatedTimestamp": moment("When the status last changed."),
        "kubeSystemUUID": text("The cluster's identity: the UID of the namespace kube-system."),
        "conditions": conditions("How each concern stands. Ready sums them up."),
        "oneAgent": _versions(
            "the host agents",
            instances=table(
                "Host agents by the name of their node.",
                section("A host agent.", {"podName": text("Its pod."), "ipAddress": text("Its address.")}),
            ),
            lastInstanceStatusUpdate=moment("When the host agents were last looked at."),
            healthcheck=anything("The health check of the host agent's image."),
            connectionInfoStatus=section(
                "How agents reach the tenant.",
                {
                    "tenantUUID": text("The tenant."),
                    "endpoints": text("Its communication endpoints, separated by semicolons."),
                    "lastRequest": moment("When they were last asked for."),
                    "communicationHosts": listing(
                        "The endpoints' parts.",
                        section(
                            "An endpoint.",
                            {
                                "protocol": text("https or http."),
                                "host": text("Its host."),
                                "port": number("Its port.", format="int32"),
                            },
                        ),
                    ),
                },
            ),
        ),
        "codeModules": _versions(
            "the agent for applications",
            tenantConfig=text("Digest of the tenant's answers that nodes read from the Secret <name>.tenant-config."),
        ),
        "dynatraceApi": section(
            "How the tenant's API is used.", {"lastTokenScopeRequest": moment("When the tokens were last checked.")}
        ),
    },
)

DYNAKUBE: Final = section(
    "A DynaKube says which tenant watches this cluster, with which agents, and in which namespaces.",
    {
        "apiVersion": text("The version of this description."),
        "kind": text("DynaKube."),
        "metadata": {"type": "object"},
        "spec": SPEC,
        "status": STATUS,
    },
)
