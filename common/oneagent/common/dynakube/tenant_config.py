"""The part of a DynaKube's status about the tenant's answers that the operator has for nodes (see `tenant_secret`).

The operator writes the condition with its first status, before it has any answer. So a node that finds none is in a
cluster without an operator, or with an older one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from oneagent.common.kubernetes import fields

CONDITION: Final = "TenantConfiguration"
FIELD: Final = "tenantConfig"
"""In the status, below `codeModules`: the digest of the answers."""


@dataclass(frozen=True, slots=True)
class TenantConfig:
    digest: str
    """Of the answers in the Secret; empty if there are none, for the `reason`."""
    reason: str = ""
    is_pending: bool = False
    """The operator is about to ask the tenant."""


def read(obj: Mapping[str, object]) -> TenantConfig | None:
    """Return what an object in the newest version says; None without the condition."""
    conditions = fields.at(obj, "status.conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if not isinstance(condition, Mapping) or condition.get("type") != CONDITION:
            continue
        status, reason = fields.scalar(condition.get("status")), fields.scalar(condition.get("message"))
        digest = fields.text(obj, f"status.codeModules.{FIELD}") if status == "True" else ""
        return TenantConfig(digest) if digest else TenantConfig("", reason, status != "False")
    return None
