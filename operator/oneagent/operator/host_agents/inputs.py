"""Values for host agents that do not come from the DynaKube itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from oneagent.common import identifiers


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAgentInputs:
    tenant: identifiers.TenantId
    tenant_token: str = field(repr=False)
    endpoints: tuple[str, ...]
    """Communication endpoints that agents report to."""
    cluster_id: str
    """UID of the namespace kube-system."""
    operator_version: str
    registry_password: str = field(default="", repr=False)
    """Download token, for the pull secret of the tenant's registry."""
    proxy: str = field(default="", repr=False)
    """Proxy URL, from the DynaKube's `value` or `valueFrom`."""
