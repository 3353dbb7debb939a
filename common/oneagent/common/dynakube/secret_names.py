"""Names of Secrets in a DynaKube, and those that it must not name.

Nodes read each Secret that a DynaKube names. So none of these may be one with the keys of the webhook's certificates,
by which a node could pose as the webhook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from oneagent.common.kubernetes import fields
from oneagent.common.kubernetes.fields import FieldError

RESERVED: Final = frozenset({"oneagent-webhook-ca", "oneagent-webhook-certs", "oneagent-webhook-issuer"})
"""The CA, the webhook's certificate, and cert-manager's CA if the chart has asked for one."""

_KEYS: Final = "has the keys of the webhook's certificates, which nodes must not read"


def read(obj: Mapping[str, object], field: str) -> str:
    """Return the name of a Secret; empty if the field has none. `FieldError` for an invalid or a reserved name."""
    name = fields.dns_name(obj, field, hidden=True)
    refuse_reserved(field, name)
    return name


def read_tokens(obj: Mapping[str, object]) -> str:
    """Return the name of the Secret with the tokens, which is the DynaKube's own unless it says another one."""
    if name := read(obj, "spec.tokens"):
        return name
    own = fields.text(obj, "metadata.name")
    if own in RESERVED:
        raise FieldError("metadata.name", own, f"name a Secret in spec.tokens: the one with this name {_KEYS}")
    return own


def check_env(obj: Mapping[str, object], field: str) -> None:
    """Refuse variables of host agents that have their value from a reserved Secret."""
    entries = fields.at(obj, field)
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        value: object = entry
        for key in ("valueFrom", "secretKeyRef", "name"):
            value = value.get(key) if isinstance(value, Mapping) else None
        refuse_reserved(f"{field}[{number}].valueFrom.secretKeyRef.name", value)


def refuse_reserved(field: str, name: object) -> None:
    if isinstance(name, str) and name.strip() in RESERVED:
        raise FieldError(field, name, f"name another Secret: this one {_KEYS}")
