"""Ownership of namespaces by DynaKubes, decided alike for the operator and the webhook.

A DynaKube claims namespaces by its selectors. Ignored namespaces have no owner. Of several that claim a
namespace, its current owner keeps it, so that a second DynaKube changes nothing for running applications. Without a
current owner the oldest gets it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from oneagent.common import safe_regex
from oneagent.common.dynakube.api import feature_flags
from oneagent.common.dynakube.mode import MODES
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import fields, selectors

LABEL: Final = "dynakube.internal.dynatrace.com/instance"

_IGNORED: Final = ("^kube-.*", "^openshift(-.*)?$", "^gke-.*", "^gmp-.*")
_FLAG: Final = "ignored-namespaces"


@dataclass(frozen=True, slots=True)
class Claim:
    """Criteria by which a DynaKube claims namespaces."""

    dynakube: DynaKubeName
    created: str
    """Timestamp as the API server writes it: texts sort like times."""
    agent_selectors: tuple[selectors.Selector, ...]
    """Of its modes that inject an agent: one, or none."""
    enrichment_selector: selectors.Selector | None
    """None if enrichment is off."""
    ignored: safe_regex.PatternSet

    @property
    def selectors(self) -> tuple[selectors.Selector, ...]:
        """All selectors; one that matches is enough."""
        return (
            self.agent_selectors
            if self.enrichment_selector is None
            else (*self.agent_selectors, self.enrichment_selector)
        )

    def covers(self, namespace: str, labels: Mapping[str, str]) -> bool:
        if not any(selector.matches(labels) for selector in self.selectors):
            return False
        return not self.ignored.search(namespace)


@dataclass(frozen=True, slots=True)
class Decision:
    owner: DynaKubeName | None
    refused: tuple[DynaKubeName, ...] = ()
    """Other DynaKubes that claim the namespace."""


def claim(manifest: Mapping[str, object], own_namespace: str) -> Claim:
    """The claim of a DynaKube in the newest version; `FieldError` for a selector or pattern that is none."""
    modes = (f"spec.oneAgent.{mode}" for mode in MODES if mode.injects)
    agents = [
        selectors.parse(manifest, f"{mode}.namespaceSelector")
        for mode in modes
        if fields.mapping(manifest, mode) is not None
    ]
    enrichment = "spec.metadataEnrichment"
    enriches = fields.flag(manifest, f"{enrichment}.enabled")
    name = fields.text(manifest, "metadata.name")
    created = fields.text(manifest, "metadata.creationTimestamp")
    return Claim(
        DynaKubeName(name),
        created,
        tuple(agents),
        selectors.parse(manifest, f"{enrichment}.namespaceSelector") if enriches else None,
        _ignored(manifest, own_namespace),
    )


def decide(namespace: str, labels: Mapping[str, str], claims: Iterable[Claim]) -> Decision:
    """Return the DynaKube that owns a namespace, from its current labels."""
    claiming = sorted((claim.created, claim.dynakube) for claim in claims if claim.covers(namespace, labels))
    wanting = [dynakube for _, dynakube in claiming]
    if not wanting:
        return Decision(None)
    has = labels.get(LABEL)
    owner = next((dynakube for dynakube in wanting if dynakube == has), wanting[0])
    return Decision(owner, tuple(dynakube for dynakube in wanting if dynakube != owner))


def _ignored(manifest: Mapping[str, object], own_namespace: str) -> safe_regex.PatternSet:
    text = feature_flags.text(manifest, _FLAG)
    if not text:
        patterns = (f"^{re.escape(own_namespace)}$", *_IGNORED)
        return safe_regex.PatternSet(patterns, re.compile("|".join(patterns)))
    field = f"metadata.annotations[{feature_flags.given_as(manifest, _FLAG)}]"
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise fields.FieldError(field, text, 'must be a JSON list of patterns such as ["^prod-.*"]')
    try:
        return safe_regex.compile_all(given)
    except ValueError as error:
        raise fields.FieldError(field, given, str(error)) from error
