"""The feature flags: annotations of a DynaKube that change how something is done.

A flag is written `feature.dynatrace.com/NAME`; in old releases also with another prefix, and a switch as `disable-NAME`
or `enable-NAME`. Every spelling means the same in every API version; the plain one comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from oneagent.common import identifiers
from oneagent.common.kubernetes import fields

OLD_PREFIX: Final = "alpha.operator.dynatrace.com/feature-"
PREFIXES: Final = (identifiers.FEATURE_PREFIX, OLD_PREFIX, "operator.dynatrace.com/feature-")
"""The present one first"""

Kind = Literal["switch", "number", "duration", "text", "list"]


@dataclass(frozen=True, slots=True)
class Feature:
    name: str
    kind: Kind
    default: str = ""
    """As a user would write it; empty if there is none."""
    instead: str = ""
    """The field that replaces it. Such a flag is deprecated."""
    no_effect: str = ""
    """The reason why no component acts on it; empty if one does."""

    @property
    def handled(self) -> bool:
        return not self.no_effect


@dataclass(frozen=True, slots=True)
class GivenFlag:
    """An annotation that reads like a feature flag."""

    key: str
    value: str
    feature: Feature | None
    """None if there is no such flag"""
    verb: str = ""
    """`disable-` or `enable-` in front of a switch's name; empty for its own name"""

    @property
    def meaning(self) -> str:
        """The value under the flag's own name; of a switch `true` or `false`, if it is one of them in any spelling."""
        if self.feature is None or self.feature.kind != "switch":
            return self.value
        value = SWITCHES.get(self.value.lower())
        if value is None:
            return self.value
        return "true" if value is not (self.verb == _DISABLE) else "false"


SWITCHES: Final[Mapping[str, bool]] = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
"""Spellings of a switch in the field, by their lower case"""

_DISABLE: Final = "disable-"
VERBS: Final = (_DISABLE, "enable-")

_OTHER_PRODUCT: Final = "it belongs to another product"
_OTHER_PRODUCTS: Final[Mapping[str, Kind]] = {
    "activegate-apparmor": "switch",
    "activegate-authtoken": "switch",
    "activegate-ignore-proxy": "switch",
    "activegate-raw-image": "switch",
    "activegate-rawimage": "switch",
    "activegate-readonly-fs": "switch",
    "activegate-updates": "switch",
    "automatic-kubernetes-api-monitoring": "switch",
    "automatic-kubernetes-api-monitoring-cluster-name": "text",
    "automatic-tls-certificate": "switch",
    "custom-eec-image": "text",
    "custom-statsd-image": "text",
    "custom-synthetic-image": "text",
    "k8s-app-enabled": "switch",
    "oci-image": "text",
    "otelc-debug-exporter-sampling-initial": "number",
    "otelc-debug-exporter-sampling-thereafter": "number",
    "otelc-debug-exporter-verbosity": "text",
    "otlp-exporter-configuration-set-no-proxy": "switch",
    "synthetic-location-entity-id": "text",
    "synthetic-node-type": "text",
    "synthetic-replicas": "number",
    "use-activegate-image-for-statsd": "switch",
    "use-eec-legacy-mounts": "switch",
}

_ALL: Final = (
    Feature("automatic-injection", "switch", "true"),
    Feature("code-modules-image-key", "text"),
    Feature("ignored-namespaces", "list", '["^<own>$", "^kube-.*", "^openshift(-.*)?$", "^gke-.*", "^gmp-.*"]'),
    Feature("init-container-seccomp-profile", "switch", "false"),
    Feature("injection-failure-policy", "text", "silent"),
    Feature("injection-init-containers", "switch", "false"),
    Feature("injection-readonly-volume", "switch", "false"),
    Feature("label-version-detection", "switch", "false"),
    Feature("max-csi-mount-attempts", "number", "10"),
    Feature("max-csi-mount-timeout", "duration", "10m"),
    Feature("mount-policy", "text", "wait-then-last-good"),
    Feature("multiple-osagents-on-node", "switch", "false"),
    Feature("no-proxy", "text"),
    Feature("oneagent-initial-connect-retry-ms", "number", "-1"),
    Feature("oneagent-max-unavailable", "number", "1"),
    Feature("oneagent-privileged", "switch", "false"),
    Feature("oneagent-readonly-host-fs", "switch", "true"),
    Feature("poll-interval", "duration"),
    Feature("public-registry", "switch", "false"),
    Feature("use-public-registry", "switch", "false"),
    Feature("webhook-reinvocation-policy", "switch", "true"),
    # Deprecated.
    Feature("dynatrace-api-request-threshold", "number", "15", instead="spec.dynatraceApiRequestThreshold"),
    Feature("metadata-enrichment", "switch", "true", instead="spec.metadataEnrichment.enabled"),
    Feature("oneagent-ignore-proxy", "switch", "false", instead="feature.dynatrace.com/no-proxy"),
    Feature("oneagent-seccomp-profile", "text", instead="spec.oneAgent.MODE.secCompProfile"),
    # Known in the field, without effect here.
    Feature("csi-tolerations", "list", no_effect="tolerations of the node driver are values of its chart"),
    Feature("enable-attributes-dt.kubernetes", "switch", no_effect="the files always have these attributes"),
    Feature("enforcement-mode", "switch", no_effect="agents in containers always get their tenant"),
    Feature("host-availability-detection", "switch", no_effect="the tenant is not told of nodes that go away"),
    Feature("hosts-requests", "switch", no_effect="the tenant is not asked for its hosts"),
    Feature("ignore-unknown-state", "switch", no_effect="the phase of a DynaKube does not decide about injection"),
    Feature("node-image-pull", "switch", no_effect="nodes fetch images by themselves, without a pod"),
    Feature("oneagent-skip-liveness-probe", "switch", no_effect="host agents have no liveness probe"),
    *(Feature(name, kind, no_effect=_OTHER_PRODUCT) for name, kind in _OTHER_PRODUCTS.items()),
)

FEATURES: Final[Mapping[str, Feature]] = {feature.name: feature for feature in _ALL}


def annotation(name: str) -> str:
    """A flag's place, as paths are written."""
    return f"metadata.annotations[{identifiers.FEATURE_PREFIX}{name}]"


def verbs(name: str) -> tuple[str, ...]:
    """Return what a flag's name may have in front, the empty text first."""
    is_switch = name in FEATURES and FEATURES[name].kind == "switch"
    return ("", *(verb for verb in VERBS if is_switch and verb + name not in FEATURES))


def first_given(annotations: Mapping[str, object], name: str) -> GivenFlag | None:
    """Return the annotation that counts for a flag: the first spelling that has a value."""
    for verb in verbs(name):
        for prefix in PREFIXES:
            key = f"{prefix}{verb}{name}"
            if value := fields.scalar(annotations.get(key)).strip():
                return GivenFlag(key, value, FEATURES.get(name), verb)
    return None


def value(annotations: Mapping[str, object], name: str) -> str:
    """Return a flag's value under its own name; empty if it is not given."""
    flag = first_given(annotations, name)
    return flag.meaning if flag is not None else ""


def text(obj: object, name: str) -> str:
    """Return an object's value of a flag, on one line; empty if it is not given."""
    annotations = fields.at(obj, "metadata.annotations")
    found = value(annotations, name) if isinstance(annotations, Mapping) else ""
    return fields.printable(f"metadata.annotations[{given_as(obj, name)}]", found)


def given_as(obj: object, name: str) -> str:
    """Return the annotation that gives a flag, with whatever value; empty if none does."""
    annotations = fields.at(obj, "metadata.annotations")
    keys = (f"{prefix}{verb}{name}" for verb in verbs(name) for prefix in PREFIXES)
    return next((key for key in keys if isinstance(annotations, Mapping) and key in annotations), "")


def given(annotations: Mapping[str, object]) -> Iterator[GivenFlag]:
    """The annotations that want to be feature flags, with what is known of them."""
    for key, written in annotations.items():
        for prefix in PREFIXES:
            if key.startswith(prefix):
                yield _read(key, key.removeprefix(prefix), fields.scalar(written).strip())


def is_known(name: str) -> bool:
    """Return True for a flag's name, with or without a verb in front."""
    return _read("", name, "").feature is not None


def _read(key: str, name: str, value: str) -> GivenFlag:
    if name in FEATURES:
        return GivenFlag(key, value, FEATURES[name])
    for verb in VERBS:
        base = name.removeprefix(verb)
        if base != name and verb in verbs(base):
            return GivenFlag(key, value, FEATURES[base], verb)
    return GivenFlag(key, value, None)
