"""Settings of a DynaKube for pods: its common model, and fields that only the webhook reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import agents, durations, dynakube, safe_regex
from oneagent.common.agents.profile import AgentProfile
from oneagent.common.dynakube import namespace_mapping, resource_attributes
from oneagent.common.dynakube.api import feature_flags
from oneagent.common.kubernetes import fields, selectors
from oneagent.webhook.injection.inputs import Object

_MAX_CACHED: Final = 64
_MAX_FAULTS: Final = 3
_FLAGS: Final = tuple(name for name, feature in feature_flags.FEATURES.items() if feature.handled)
_cache: dict[tuple[str, str], tuple[Object, DynaKubeSettings]] = {}


@dataclass(frozen=True, slots=True)
class DynaKubeSettings:
    common: dynakube.DynaKube
    annotations: Mapping[str, str]
    flags: Mapping[str, str]
    """Values of feature flags under their own names; empty where a flag is not given"""
    ignored: safe_regex.PatternSet
    """Patterns of namespaces that the DynaKube ignores"""
    agent_selector: selectors.Selector | None
    """None if its mode does not inject"""
    enrichment_selector: selectors.Selector | None
    """None if enrichment is off"""
    init_resources: Mapping[str, Any]
    """Of pods with the agent"""
    enrichment_resources: Mapping[str, Any]
    """Of pods with enrichment alone; those of pods with the agent if not set"""
    attributes: Mapping[str, str]
    """Resource attributes of pods with the agent"""
    enrichment_attributes: Mapping[str, str]
    """Resource attributes of pods with enrichment alone"""
    attribute_faults: tuple[str, ...]
    """Resource attributes that are left out, for users"""

    @property
    def profile(self) -> AgentProfile:
        """The kind of agent that pods get."""
        return agents.get(self.common.agent)

    @property
    def mount_timeout(self) -> str:
        """The timeout as written; empty if it is the default or invalid."""
        text = self.feature("max-csi-mount-timeout")
        try:
            seconds = durations.parse(text)
        except (ValueError, OverflowError):
            return ""
        return "" if seconds == dynakube.DEFAULT_MOUNT_TIMEOUT_SECONDS else text

    @property
    def attributes_warning(self) -> str:
        """A warning about resource attributes that are left out; empty if all are used."""
        if not self.attribute_faults:
            return ""
        faults = ", ".join(self.attribute_faults)
        return f"resource attributes of the {agents.describe_object(self.common.name)} are left out: {faults}"

    def feature(self, name: str) -> str:
        return self.flags[name] or feature_flags.FEATURES[name].default

    def is_on(self, name: str) -> bool:
        """Return a switch's value; the default if it is neither true nor false."""
        given = self.flags[name].lower()
        return given == "true" if given in ("true", "false") else feature_flags.FEATURES[name].default == "true"


def read(manifest: Object, own_namespace: str) -> DynaKubeSettings:
    """Read a DynaKube in the newest version; `FieldError` if it is invalid.

    Cached while the webhook's cache holds the same object. Its `resourceVersion` would not do: after a restore of
    etcd another state may have the same one.
    """
    key = str(fields.at(manifest, "metadata.name")), own_namespace
    cached = _cache.get(key)
    if cached is not None and cached[0] is manifest:
        return cached[1]
    settings = _read(manifest, own_namespace)
    if len(_cache) >= _MAX_CACHED:
        _cache.clear()
    _cache[key] = manifest, settings
    return settings


def _read(manifest: Object, own_namespace: str) -> DynaKubeSettings:
    common = dynakube.from_object(manifest)
    found = fields.at(manifest, "metadata.annotations")
    annotations = {key: fields.scalar(value) for key, value in found.items()} if isinstance(found, dict) else {}
    attribute_fields = (resource_attributes.FOR_ALL, resource_attributes.additional(common.mode))
    faults = (f"{path} {fault}" for path in attribute_fields for fault in resource_attributes.faults(manifest, path))
    init_resources = _section(manifest, f"spec.oneAgent.{common.mode}.initResources")
    claim = namespace_mapping.claim(manifest, own_namespace)
    return DynaKubeSettings(
        common=common,
        annotations=annotations,
        flags={name: feature_flags.value(annotations, name) for name in _FLAGS},
        ignored=claim.ignored,
        agent_selector=next(iter(claim.agent_selectors), None),
        enrichment_selector=claim.enrichment_selector,
        init_resources=init_resources,
        enrichment_resources=_section(manifest, "spec.metadataEnrichment.initResources") or init_resources,
        attributes=resource_attributes.read(manifest, *attribute_fields),
        enrichment_attributes=resource_attributes.read(manifest, resource_attributes.FOR_ALL),
        attribute_faults=tuple(itertools.islice(faults, _MAX_FAULTS)),
    )


def _section(manifest: Object, path: str) -> Mapping[str, Any]:
    found = fields.at(manifest, path)
    return found if isinstance(found, Mapping) else {}
