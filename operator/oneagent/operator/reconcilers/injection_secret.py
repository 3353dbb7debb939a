"""The injection Secret: configuration for pods without a CSI volume, one in each of their namespaces.

With CSI the node's driver puts the configuration into the view, and there is no Secret. Without CSI the init
container downloads the agent from the package server and configures it from this Secret. The Secret holds the
agent's own settings, among them the tenant token, and the CA of the package server. It never holds an API token or
the CA's key.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from oneagent.common.injection import contract
from oneagent.common.injection import secret as injection_secret
from oneagent.operator import api, reconcile_result
from oneagent.operator.certificates import cluster_state, x509
from oneagent.operator.namespace_mapper import NamespaceMapper
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.namespace_secrets import NamespaceSecrets

NAME: Final = contract.INJECTION_SECRET
KEY: Final = contract.INJECTION_FILE

READY: Final = "InjectionReady"
WAITING: Final = "WaitingForTenant"
NO_AUTHORITY: Final = "WaitingForCertificates"
FAILED: Final = "SecretsNotWritten"
BY_CSI: Final = "InjectedByCSI"

_RETRY_SECONDS: Final = 10.0


class InjectionSecrets:
    condition = "CodeModulesInjection"

    def __init__(self, mapper: NamespaceMapper, package_url: str, authority_secret: str) -> None:
        """`authority_secret` has the CA of the package server, in the operator's namespace."""
        self._package_url, self._authority_secret = package_url, authority_secret
        self.secrets = NamespaceSecrets(NAME, "Opaque", mapper)

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        name = context.dynakube.name
        if not context.dynakube.mode.injects or uses_csi(context):
            had_secrets = any(condition.get("reason") in (READY, FAILED) for condition in _last_conditions(context))
            await self.secrets.remove(context.api, name, had_secrets=had_secrets)
            return reconcile_result.ok(BY_CSI, "pods get their agent from CSI volumes") if uses_csi(context) else None
        authority = await self._read_authority(context)
        if self._package_url and not authority:
            return reconcile_result.pending(
                NO_AUTHORITY, f"the Secret {self._authority_secret} has no CA for the package server yet"
            )
        content = self._content(context, authority)
        if content is None:
            return reconcile_result.pending(WAITING, f"waiting for the tenant: {context.tenant_state.obstacle}")
        data = {KEY: base64.b64encode(content.encode()).decode()}
        count, problems = await self.secrets.write(context.api, name, data)
        if problems:
            return reconcile_result.failed(
                FAILED,
                f"cannot write the injection Secret, namespaces: {len(problems)}; the first: {problems[0]}",
                _RETRY_SECONDS,
            )
        return reconcile_result.ok(READY, f"namespaces with the injection Secret: {count}")

    async def finalize(self, context: ReconcileContext) -> None:
        """Delete the Secrets; running pods have read theirs."""
        await self.secrets.remove(context.api, context.dynakube.name, had_secrets=False)

    async def _read_authority(self, context: ReconcileContext) -> str:
        """Return the current CA and former ones whose certificates may still be served; empty if there is none."""
        if not self._package_url:
            return ""
        secret_object = await context.api.find(api.SECRETS, self._authority_secret, context.namespace)
        return x509.bundle(cluster_state.record(secret_object).trusted).decode()

    def _content(self, context: ReconcileContext, authority: str) -> str | None:
        state, kube = context.tenant_state, context.dynakube
        version = context.section("codeModules").get("version")
        if state.tenant is None or not state.complete or not version:
            return None
        injection = injection_secret.Injection(
            dynakube=kube.name,
            tenant=state.tenant,
            tenant_token=state.tenant_token,
            endpoints=state.endpoints,
            version=version,
            package_url=self._package_url,
            package_ca=authority,
            technologies=kube.technologies,
            network_zone=kube.network_zone,
            host_group=kube.host_group,
            proxy=kube.proxy,
            properties=tuple((prop.section, prop.key, prop.value) for prop in state.properties),
        )
        return injection_secret.encode(injection)


def _last_conditions(context: ReconcileContext) -> list[Mapping[str, Any]]:
    """Return this reconciler's condition from the status, maybe of an earlier operator."""
    return [item for item in context.status.get("conditions") or () if item.get("type") == InjectionSecrets.condition]


def uses_csi(context: ReconcileContext) -> bool:
    """True if pods get their agent from a CSI volume: the DynaKube wants views and the driver is installed."""
    return context.dynakube.needs_views and context.cache.csi_installed
