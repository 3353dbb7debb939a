"""What a DynaKube says to pods: its common part as every component reads it, and what only matters here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import durations, dynakube, identifiers, safe_regex
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api import feature_flags
from oneagent.common.injection import pod_annotations
from oneagent.common.kubernetes import fields, selectors
from oneagent.webhook.injection.inputs import Object

_MOST_KNOWN: Final = 64
_known: dict[tuple[str, str, str], Kube] = {}


@dataclass(frozen=True, slots=True)
class Kube:
    common: dynakube.DynaKube
    annotations: Mapping[str, str]
    ignored: tuple[safe_regex.Pattern, ...]
    """Namespaces that are nobody's."""
    agent_selector: selectors.Selector | None
    """None if its mode puts no agent into pods."""
    enrichment_selector: selectors.Selector | None
    """None if enrichment is off."""
    init_resources: Mapping[str, Any]

    @property
    def mount_timeout(self) -> str:
        """As it was written; empty if it is the usual one, or none."""
        text = self.feature("max-csi-mount-timeout")
        try:
            seconds = durations.parse(text)
        except (ValueError, OverflowError):
            return ""
        return "" if seconds == dynakube.DEFAULT_MOUNT_TIMEOUT_SECONDS else text

    def feature(self, name: str) -> str:
        return (
            self.annotations.get(identifiers.FEATURE_PREFIX + name, "").strip() or feature_flags.FEATURES[name].default
        )

    def is_on(self, name: str) -> bool:
        """A switch; the default counts where it says neither true nor false."""
        given = pod_annotations.switch(self.annotations, identifiers.FEATURE_PREFIX + name)
        return feature_flags.FEATURES[name].default == "true" if given is None else given


def read(manifest: Object, own_namespace: str) -> Kube:
    """A DynaKube in the newest version; `FieldError` if it can't be used.

    A state of an object never changes, so what it says is only made out once.
    """
    state = str(fields.at(manifest, "metadata.uid")), str(fields.at(manifest, "metadata.resourceVersion"))
    if (known := _known.get((*state, own_namespace))) is not None:
        return known
    kube = _read(manifest, own_namespace)
    if "None" not in state:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[(*state, own_namespace)] = kube
    return kube


def _read(manifest: Object, own_namespace: str) -> Kube:
    common = dynakube.from_object(manifest)
    found = fields.at(manifest, "metadata.annotations")
    mode = f"spec.oneAgent.{common.mode}"
    resources = fields.at(manifest, f"{mode}.initResources")
    enriches = fields.flag(manifest, "spec.metadataEnrichment.enabled")
    return Kube(
        common=common,
        annotations={key: fields.scalar(value) for key, value in found.items()} if isinstance(found, dict) else {},
        ignored=namespace_mapping.claim(manifest, own_namespace).ignored,
        agent_selector=(selectors.parse(manifest, f"{mode}.namespaceSelector") if common.mode.injects else None),
        enrichment_selector=(
            selectors.parse(manifest, "spec.metadataEnrichment.namespaceSelector") if enriches else None
        ),
        init_resources=resources if isinstance(resources, Mapping) else {},
    )
