"""What host agents are told of their tenant."""

from __future__ import annotations

from dataclasses import dataclass, field

from oneagent.common import identifiers


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAgentInputs:
    tenant: identifiers.TenantId
    tenant_token: str = field(repr=False)
    endpoints: tuple[str, ...]
    """Where agents report to."""
    cluster_id: str
    """UID of the namespace kube-system."""
    operator_version: str
    registry_password: str = field(default="", repr=False)
    """The token that may download; with it a pull secret for the tenant's registry is made."""
    proxy: str = field(default="", repr=False)
    """The proxy's URL, from wherever the DynaKube has it."""
