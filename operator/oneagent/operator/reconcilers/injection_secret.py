"""What pods without a CSI volume need to get their agent, in a Secret of each namespace that has such pods.

With CSI the node's driver puts all of it into the view, and the namespaces hold nothing. Without, the init
container downloads the agent from the operator and configures it from this Secret. It holds what agents
themselves use, the tenant's own token among it, and what verifies the package endpoint; an API token is never in
it, nor the CA's key.
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
from oneagent.operator import api, reconcile_result
from oneagent.operator.certificates import cluster_state, x509
from oneagent.operator.namespace_mapper import Mapper
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.context import ReconcileContext

NAME: Final = contract.INJECTION_SECRET
KEY: Final = contract.INJECTION_FILE

READY: Final = "InjectionReady"
WAITING: Final = "WaitingForTenant"
NO_AUTHORITY: Final = "WaitingForCertificates"
FAILED: Final = "SecretsNotWritten"
BY_CSI: Final = "InjectedByCSI"

LABELS: Final = {"app.kubernetes.io/name": "oneagent", "app.kubernetes.io/managed-by": "oneagent-operator"}

_INJECTING: Final = ("applicationMonitoring", "cloudNativeFullStack")
_AT_ONCE: Final = 16
_AGAIN_SECONDS: Final = 10.0


class Injection:
    condition = "CodeModulesInjection"

    def __init__(self, mapper: Mapper, package_url: str, authority_secret: str) -> None:
        """`authority_secret` has the CA of the package endpoint, in the operator's namespace."""
        self._mapper, self._package_url, self._authority_secret = mapper, package_url, authority_secret
        self._written: dict[str, str] = {}
        """By namespace: what its Secret was made of. After a start nothing is known, and all are written once.

        A namespace that goes to another DynaKube or to none loses it by `leave`.
        """

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        name = context.dynakube.name
        has = [namespace for namespace, owner in self._written.items() if owner.startswith(f"{name}/")]
        if context.dynakube.mode not in _INJECTING or uses_csi(context):
            wrote = any(condition.get("reason") in (READY, FAILED) for condition in _conditions(context))
            await self._remove(context.api, name, {*has, *(self._mapper.owned(name) if wrote else ())})
            return reconcile_result.ok(BY_CSI, "pods get their agent by CSI volumes") if uses_csi(context) else None
        authority = await self._authority(context)
        if self._package_url and not authority:
            return reconcile_result.pending(
                NO_AUTHORITY, f"the Secret {self._authority_secret} has no CA for packages yet"
            )
        content = self._content(context, authority)
        if content is None:
            return reconcile_result.pending(WAITING, "what pods need is not known before the tenant has answered once")
        # Only where the label is already: it is by the label that the Secret is found again and taken away.
        owned = [namespace for namespace in self._mapper.owned(name) if self._mapper.has(name, namespace)]
        await self._remove(context.api, name, [namespace for namespace in has if namespace not in owned])
        stamp = f"{name}/{hashlib.sha256(content.encode()).hexdigest()}"
        todo = [namespace for namespace in owned if self._written.get(namespace) != stamp]
        problems = await self._write(context.api, name, todo, content, stamp)
        if problems:
            return reconcile_result.failed(
                FAILED, f"{len(problems)} namespaces lack their Secret: {problems[0]}", _AGAIN_SECONDS
            )
        return reconcile_result.ok(READY, f"{len(owned)} namespaces have what their pods need")

    async def finalize(self, context: ReconcileContext) -> None:
        """The namespaces lose their Secret; pods that run have read it."""
        name = context.dynakube.name
        known = [namespace for namespace, owner in self._written.items() if owner.startswith(f"{name}/")]
        await self._remove(context.api, name, known)

    async def _authority(self, context: ReconcileContext) -> str:
        """The CA, and those before it whose certificates may still be served; empty if there is none."""
        if not self._package_url:
            return ""
        found = await context.api.find(api.SECRETS, self._authority_secret, context.namespace)
        return x509.bundle(cluster_state.record(found).trusted).decode()

    def _content(self, context: ReconcileContext, authority: str) -> str | None:
        facts, kube = context.tenant_state, context.dynakube
        version = context.section("codeModules").get("version")
        if facts.tenant is None or not version:
            return None
        injection = injection_secret.Injection(
            dynakube=kube.name,
            tenant=facts.tenant,
            tenant_token=facts.tenant_token,
            endpoints=facts.endpoints,
            version=version,
            package_url=self._package_url,
            package_ca=authority,
            technologies=kube.technologies,
            network_zone=kube.network_zone,
            host_group=kube.host_group,
            proxy=kube.proxy,
            properties=tuple((prop.section, prop.key, prop.value) for prop in facts.properties),
        )
        return injection_secret.encode(injection)

    async def leave(self, server: api.Api, namespace: str) -> None:
        """Take the Secret out of a namespace, under its lock; `ApiError` if that does not work."""
        await server.delete(api.SECRETS, NAME, namespace)
        self._written.pop(namespace, None)

    async def _write(
        self, server: api.Api, dynakube: DynaKubeName, namespaces: list[str], content: str, stamp: str
    ) -> list[str]:
        gate = asyncio.Semaphore(_AT_ONCE)
        problems = []

        async def write(namespace: str) -> None:
            try:
                async with gate, self._mapper.locks[namespace]:
                    # It may have been given away meanwhile.
                    if self._mapper.has(dynakube, namespace):
                        await server.apply(api.SECRETS, secret(namespace, content))
                        self._written[namespace] = stamp
            except api.NotFoundError:
                pass  # The namespace has gone.
            except api.ApiError as error:
                problems.append(str(error))

        await asyncio.gather(*(write(namespace) for namespace in namespaces))
        return problems

    async def _remove(self, server: api.Api, dynakube: DynaKubeName, namespaces: Iterable[str]) -> None:
        """Take a DynaKube's Secrets out of namespaces; not what another one has put there meanwhile."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def remove(namespace: str) -> None:
            async with gate, self._mapper.locks[namespace]:
                written = self._written.get(namespace, "")
                if written.startswith(f"{dynakube}/") or (not written and self._mapper.labelled(namespace, dynakube)):
                    await self.leave(server, namespace)

        await asyncio.gather(*(remove(namespace) for namespace in namespaces))


def _conditions(context: ReconcileContext) -> list[Mapping[str, Any]]:
    """This concern's condition of the last time, maybe an earlier operator's."""
    return [found for found in context.status.get("conditions") or () if found.get("type") == Injection.condition]


def uses_csi(context: ReconcileContext) -> bool:
    """Whether pods get their agent by a CSI volume: the DynaKube wants views, and there is a driver to make them."""
    return context.dynakube.needs_app_views and context.cache.csi_installed


def secret(namespace: str, content: str) -> dict[str, Any]:
    return {
        "metadata": {"name": NAME, "namespace": namespace, "labels": LABELS},
        "type": "Opaque",
        "data": {KEY: base64.b64encode(content.encode()).decode()},
    }
