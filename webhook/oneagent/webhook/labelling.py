"""Labels a namespace with its DynaKube while it is created or changed, so that its first pod is already covered.

The operator does the same a moment later for what was missed here, and by the same decision. So nothing has to be
right here at any price: a DynaKube that claims by a selector that is none is left out, as the operator does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oneagent.common import manifests, mapping
from oneagent.webhook import patches
from oneagent.webhook.facts import Object


def patch(namespace: Object, dynakubes: Iterable[Object], own_namespace: str) -> list[dict[str, Any]]:
    """The smallest JSON patch after which the namespace's label says whose it is; empty if it does already."""
    metadata = namespace.get("metadata") or {}
    name = metadata.get("name") or metadata.get("generateName") or ""
    decision = mapping.decide(name, metadata.get("labels") or {}, _claims(dynakubes, own_namespace))
    return patches.metadata(namespace, "labels", {mapping.LABEL: decision.owner})


def _claims(dynakubes: Iterable[Object], own_namespace: str) -> Iterable[mapping.Claim]:
    for dynakube in dynakubes:
        try:
            yield mapping.claim(dynakube, own_namespace)
        except manifests.FieldError:
            continue  # The DynaKube's own condition says so.
