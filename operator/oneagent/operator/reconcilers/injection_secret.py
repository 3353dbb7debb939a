"""The injection Secret: configuration for pods without a CSI volume, one in each of their namespaces.

With CSI the node's driver puts the configuration into the view, and there is no Secret. Without CSI the init
container downloads the agent from the package server and configures it from this Secret. The Secret holds the
agent's own settings, among them the tenant token, and the CA of the package server. It never holds an API token or
the CA's key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from oneagent.common.identifiers import DynaKubeName
from oneagent.common.injection import contract
from oneagent.common.injection import secret as injection_secret
from oneagent.common.kubernetes.errors import ApiError, NotFoundError
from oneagent.operator import api, reconcile_result
from oneagent.operator.certificates import cluster_state, x509
from oneagent.operator.namespace_mapper import NamespaceMapper
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult

NAME: Final = contract.INJECTION_SECRET
KEY: Final = contract.INJECTION_FILE

READY: Final = "InjectionReady"
WAITING: Final = "WaitingForTenant"
NO_AUTHORITY: Final = "WaitingForCertificates"
FAILED: Final = "SecretsNotWritten"
BY_CSI: Final = "InjectedByCSI"

LABELS: Final = {"app.kubernetes.io/name": "oneagent", "app.kubernetes.io/managed-by": "oneagent-operator"}

_MAX_CONCURRENT_WRITES: Final = 16
_RETRY_SECONDS: Final = 10.0


class InjectionSecrets:
    condition = "CodeModulesInjection"

    def __init__(self, mapper: NamespaceMapper, package_url: str, authority_secret: str) -> None:
        """`authority_secret` has the CA of the package server, in the operator's namespace."""
        self._mapper, self._package_url, self._authority_secret = mapper, package_url, authority_secret
        self._written: dict[str, str] = {}
        """By namespace: DynaKube and digest of its Secret. Empty after a start, so that all are written once.

        `remove_secret` deletes the entry of a namespace that the DynaKube loses.
        """

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        name = context.dynakube.name
        written = self._written_for(name)
        if not context.dynakube.mode.injects or uses_csi(context):
            had_secrets = any(condition.get("reason") in (READY, FAILED) for condition in _last_conditions(context))
            await self._remove(
                context.api, name, {*written, *(self._mapper.namespaces_of(name) if had_secrets else ())}
            )
            return reconcile_result.ok(BY_CSI, "pods get their agent from CSI volumes") if uses_csi(context) else None
        authority = await self._read_authority(context)
        if self._package_url and not authority:
            return reconcile_result.pending(
                NO_AUTHORITY, f"the Secret {self._authority_secret} has no CA for the package server yet"
            )
        content = self._content(context, authority)
        if content is None:
            return reconcile_result.pending(WAITING, "waiting for the first answer of the tenant")
        # Only where the label is set already: clean-up finds the Secrets by the label.
        owned = [namespace for namespace in self._mapper.namespaces_of(name) if self._mapper.owns(name, namespace)]
        await self._remove(context.api, name, [namespace for namespace in written if namespace not in owned])
        digest = f"{name}/{hashlib.sha256(content.encode()).hexdigest()}"
        outdated = [namespace for namespace in owned if self._written.get(namespace) != digest]
        problems = await self._write(context.api, name, outdated, content, digest)
        if problems:
            return reconcile_result.failed(
                FAILED,
                f"cannot write the injection Secret of {len(problems)} namespaces: {problems[0]}",
                _RETRY_SECONDS,
            )
        return reconcile_result.ok(READY, f"{len(owned)} namespaces have the injection Secret")

    async def finalize(self, context: ReconcileContext) -> None:
        """Delete the Secrets; running pods have read theirs."""
        name = context.dynakube.name
        await self._remove(context.api, name, self._written_for(name))

    def _written_for(self, dynakube: DynaKubeName) -> list[str]:
        return [namespace for namespace, owner in self._written.items() if owner.startswith(f"{dynakube}/")]

    async def _read_authority(self, context: ReconcileContext) -> str:
        """Return the current CA and former ones whose certificates may still be served; empty if there is none."""
        if not self._package_url:
            return ""
        secret_object = await context.api.find(api.SECRETS, self._authority_secret, context.namespace)
        return x509.bundle(cluster_state.record(secret_object).trusted).decode()

    def _content(self, context: ReconcileContext, authority: str) -> str | None:
        state, kube = context.tenant_state, context.dynakube
        version = context.section("codeModules").get("version")
        if state.tenant is None or not version:
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

    async def remove_secret(self, server: api.Api, namespace: str) -> None:
        """Delete the Secret of a namespace; the caller holds its lock. `ApiError`."""
        await server.delete(api.SECRETS, NAME, namespace)
        self._written.pop(namespace, None)

    async def _write(
        self, server: api.Api, dynakube: DynaKubeName, namespaces: list[str], content: str, digest: str
    ) -> list[str]:
        slots = asyncio.Semaphore(_MAX_CONCURRENT_WRITES)
        problems = []

        async def write(namespace: str) -> None:
            try:
                async with slots, self._mapper.locks[namespace]:
                    # Another DynaKube may own it by now.
                    if self._mapper.owns(dynakube, namespace):
                        await server.apply(api.SECRETS, secret(namespace, content))
                        self._written[namespace] = digest
            except NotFoundError:
                pass  # The namespace was deleted.
            except ApiError as error:
                problems.append(str(error))

        await asyncio.gather(*(write(namespace) for namespace in namespaces))
        return problems

    async def _remove(self, server: api.Api, dynakube: DynaKubeName, namespaces: Iterable[str]) -> None:
        """Delete a DynaKube's Secrets from namespaces, except where another DynaKube has written meanwhile."""
        slots = asyncio.Semaphore(_MAX_CONCURRENT_WRITES)

        async def remove(namespace: str) -> None:
            async with slots, self._mapper.locks[namespace]:
                written = self._written.get(namespace, "")
                if written.startswith(f"{dynakube}/") or (
                    not written and self._mapper.is_labelled(namespace, dynakube)
                ):
                    await self.remove_secret(server, namespace)

        await asyncio.gather(*(remove(namespace) for namespace in namespaces))


def _last_conditions(context: ReconcileContext) -> list[Mapping[str, Any]]:
    """Return this reconciler's condition from the status, maybe of an earlier operator."""
    return [item for item in context.status.get("conditions") or () if item.get("type") == InjectionSecrets.condition]


def uses_csi(context: ReconcileContext) -> bool:
    """True if pods get their agent from a CSI volume: the DynaKube wants views and the driver is installed."""
    return context.dynakube.needs_views and context.cache.csi_installed


def secret(namespace: str, content: str) -> dict[str, Any]:
    return {
        "metadata": {"name": NAME, "namespace": namespace, "labels": LABELS},
        "type": "Opaque",
        "data": {KEY: base64.b64encode(content.encode()).decode()},
    }
