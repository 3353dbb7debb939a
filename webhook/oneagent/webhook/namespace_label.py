"""Labels a namespace with its DynaKube while it is created or changed, so that its first pod is already covered.

The operator does the same a moment later for what was missed here, and by the same decision. So nothing has to be
right here at any price: a DynaKube that claims by a selector that is none gets nothing new and keeps what it has, as
with the operator.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.kubernetes import fields
from oneagent.webhook import json_patch
from oneagent.webhook.injection.inputs import Object


def patch(namespace: Object, dynakubes: Iterable[Object], own_namespace: str) -> list[dict[str, Any]]:
    """The smallest JSON patch after which the namespace's label says whose it is; empty if it does already."""
    metadata = namespace.get("metadata") or {}
    name = metadata.get("name") or metadata.get("generateName") or ""
    labels = metadata.get("labels") or {}
    claims = []
    for dynakube in dynakubes:
        if fields.at(dynakube, "metadata.deletionTimestamp"):
            continue  # The operator is taking its labels off.
        try:
            claims.append(namespace_mapping.claim(dynakube, own_namespace))
        except fields.FieldError:  # The DynaKube's own condition reports it.
            if fields.at(dynakube, "metadata.name") == labels.get(namespace_mapping.LABEL):
                return []
    decision = namespace_mapping.decide(name, labels, claims)
    return json_patch.metadata(namespace, "labels", {namespace_mapping.LABEL: decision.owner})
