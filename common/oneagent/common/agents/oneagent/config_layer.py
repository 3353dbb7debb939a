"""OneAgent's configuration in a config layer: that of the package, the tenant's settings, and the DynaKube's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneagent.common.agents.oneagent import ruxitagentproc

if TYPE_CHECKING:
    from oneagent.common.dynakube import DynaKube
    from oneagent.common.tenant.poll import TenantState


def render(package: str, dynakube: DynaKube, tenant: TenantState) -> str:
    """Merge the package's file with the tenant's settings and our own; ours win."""
    return ruxitagentproc.merge(package, tenant.properties, own_settings(dynakube, tenant)).text


def own_settings(dynakube: DynaKube, tenant: TenantState) -> list[ruxitagentproc.Property]:
    """Return the agent settings of the DynaKube and the connection."""
    endpoints = tenant.endpoints or tuple(part for part in dynakube.endpoints.split(",") if part)
    return ruxitagentproc.general_properties(
        host_group=dynakube.host_group or None,
        tenant=tenant.tenant or dynakube.tenant,
        tenant_token=tenant.tenant_token or None,
        endpoints=endpoints or None,
        proxy=dynakube.proxy or None,
    )


def can_report(text: str, dynakube: str) -> bool:
    """Return whether it has the tenant's token, or the DynaKube has no tenant: then its name stands for one."""
    general = {prop.key: prop.value for prop in ruxitagentproc.parse(text) if prop.section == ruxitagentproc.GENERAL}
    return bool(general.get("tenantToken")) or general.get("tenant") == dynakube
