"""The feature flags: annotations of a DynaKube that change how something is done.

A flag is written `feature.dynatrace.com/NAME`; up to `v1beta1` also `alpha.operator.dynatrace.com/feature-NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from oneagent.common import identifiers
from oneagent.common.kubernetes import fields

OLD_PREFIX: Final = "alpha.operator.dynatrace.com/feature-"

Kind = Literal["switch", "number", "duration", "text", "list"]


@dataclass(frozen=True, slots=True)
class Feature:
    name: str
    kind: Kind
    default: str = ""
    """As a user would write it; empty if there is none."""
    instead: str = ""
    """The field that replaces it. Such a flag is deprecated."""
    handled: bool = True
    """A component acts on it."""


_NOT_HANDLED: Final = (
    "activegate-apparmor",
    "activegate-authtoken",
    "activegate-ignore-proxy",
    "activegate-rawimage",
    "activegate-readonly-fs",
    "activegate-updates",
    "automatic-kubernetes-api-monitoring",
    "automatic-tls-certificate",
    "disable-activegate-updates",
    "enable-attributes-dt.kubernetes",
    "enforcement-mode",
    "host-availability-detection",
    "hosts-requests",
    "ignore-unknown-state",
    "k8s-app-enabled",
    "oci-image",
    "oneagent-skip-liveness-probe",
    "otlp-exporter-configuration-set-no-proxy",
)

_ALL: Final = (
    Feature("automatic-injection", "switch", "true"),
    Feature("code-modules-image-key", "text"),
    Feature("ignored-namespaces", "list", '["^<own>$", "^kube-.*", "^openshift(-.*)?$", "^gke-.*", "^gmp-.*"]'),
    Feature("init-container-seccomp-profile", "switch", "false"),
    Feature("injection-failure-policy", "text", "silent"),
    Feature("injection-readonly-volume", "switch", "false"),
    Feature("label-version-detection", "switch", "false"),
    Feature("max-csi-mount-attempts", "number", "10"),
    Feature("max-csi-mount-timeout", "duration", "10m"),
    Feature("mount-policy", "text", "wait"),
    Feature("multiple-osagents-on-node", "switch", "false"),
    Feature("no-proxy", "text"),
    Feature("node-image-pull", "switch", "false"),
    Feature("oneagent-initial-connect-retry-ms", "number", "-1"),
    Feature("oneagent-max-unavailable", "number", "1"),
    Feature("oneagent-privileged", "switch", "false"),
    Feature("oneagent-readonly-host-fs", "switch", "true"),
    Feature("poll-interval", "duration"),
    Feature("public-registry", "switch", "false"),
    Feature("use-public-registry", "switch", "false"),
    Feature("webhook-reinvocation-policy", "switch", "true"),
    # Deprecated.
    Feature("disable-metadata-enrichment", "switch", "false", instead="spec.metadataEnrichment.enabled"),
    Feature("dynatrace-api-request-threshold", "number", "15", instead="spec.dynatraceApiRequestThreshold"),
    Feature("metadata-enrichment", "switch", "true", instead="spec.metadataEnrichment.enabled"),
    Feature("oneagent-ignore-proxy", "switch", "false", instead="feature.dynatrace.com/no-proxy"),
    Feature("oneagent-seccomp-profile", "text", instead="spec.oneAgent.MODE.secCompProfile"),
    # Known in the field; most of them belong to products outside of this project.
    *(Feature(name, "switch", handled=False) for name in _NOT_HANDLED),
    Feature("automatic-kubernetes-api-monitoring-cluster-name", "text", handled=False),
)

FEATURES: Final[Mapping[str, Feature]] = {feature.name: feature for feature in _ALL}


def annotation(name: str) -> str:
    """A flag's place, as paths are written."""
    return f"metadata.annotations[{identifiers.FEATURE_PREFIX}{name}]"


def text(obj: object, name: str) -> str:
    """Return a flag's value, stripped; empty if it is not given."""
    return fields.annotation(obj, identifiers.FEATURE_PREFIX + name) or fields.annotation(obj, OLD_PREFIX + name)


def given_as(obj: object, name: str) -> str:
    """Return the annotation that gives a flag, with whatever value; empty if none does."""
    annotations = fields.at(obj, "metadata.annotations")
    keys = (identifiers.FEATURE_PREFIX + name, OLD_PREFIX + name)
    return next((key for key in keys if isinstance(annotations, Mapping) and key in annotations), "")


def given(annotations: Mapping[str, object]) -> Iterator[tuple[str, Feature | None]]:
    """The annotations that want to be feature flags, with what is known of them."""
    for key in annotations:
        for prefix in (identifiers.FEATURE_PREFIX, OLD_PREFIX):
            if key.startswith(prefix):
                yield key, FEATURES.get(key.removeprefix(prefix))
