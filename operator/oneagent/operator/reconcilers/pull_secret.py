"""The pull Secret: credentials for the init container's image, in each namespace whose pods have that container.

These are pods without CSI. The chart's `image.pullSecrets` name Secrets in the operator's namespace; one Secret with
the credentials of all of them goes to each namespace, so that it hides none of the namespace's own.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, Final

from oneagent.common.injection import contract
from oneagent.common.kubernetes import fields
from oneagent.common.oci import pull_secret
from oneagent.operator import api, reconcile_result
from oneagent.operator.namespace_mapper import NamespaceMapper
from oneagent.operator.reconcile_context import ReconcileContext
from oneagent.operator.reconcile_result import ReconcileResult
from oneagent.operator.reconcilers.namespace_secrets import NamespaceSecrets

READY: Final = "PullSecretReady"
UNUSABLE: Final = "PullSecretUnusable"
FAILED: Final = "SecretsNotWritten"

_TYPE: Final = "kubernetes.io/dockerconfigjson"
_RETRY_SECONDS: Final = 10.0


class _UnusableError(Exception):
    """A Secret is missing or has no credentials; the text is for users."""


class PullSecrets:
    condition = "ImagePullSecret"

    def __init__(self, mapper: NamespaceMapper, names: Sequence[str]) -> None:
        """`names` are Secrets in the operator's namespace."""
        self._names = names
        self.secrets = NamespaceSecrets(contract.PULL_SECRET, _TYPE, mapper)

    async def reconcile(self, context: ReconcileContext) -> ReconcileResult | None:
        name = context.dynakube.name
        if not self._names or not has_init_containers(context):
            conditions = context.status.get("conditions") or ()
            had_secrets = any(condition.get("type") == self.condition for condition in conditions)
            await self.secrets.remove(context.api, name, had_secrets=had_secrets)
            return None
        try:
            merged = {"auths": await self._read(context)}
        except _UnusableError as error:
            return reconcile_result.failed(UNUSABLE, str(error))
        content = base64.b64encode(json.dumps(merged, sort_keys=True).encode()).decode()
        count, problems = await self.secrets.write(context.api, name, {pull_secret.DOCKER_CONFIG_KEY: content})
        if problems:
            message = f"cannot write the pull Secret, namespaces: {len(problems)}; the first: {problems[0]}"
            return reconcile_result.failed(FAILED, message, _RETRY_SECONDS)
        return reconcile_result.ok(READY, f"namespaces with the pull Secret: {count}")

    async def finalize(self, context: ReconcileContext) -> None:
        """Delete the Secrets; kubelet has pulled the images of running pods."""
        await self.secrets.remove(context.api, context.dynakube.name, had_secrets=False)

    async def _read(self, context: ReconcileContext) -> dict[str, Any]:
        """Return the credentials by registry; those of the first Secret count."""
        found: dict[str, Any] = {}
        for name in self._names:
            secret = await context.api.find(api.SECRETS, name, context.namespace)
            found = _auths(secret, f"Secret {name} in the namespace {context.namespace}") | found
        return found


def has_init_containers(context: ReconcileContext) -> bool:
    """Return whether new pods of the DynaKube get an init container: some of them are injected, without CSI."""
    kube = context.dynakube
    is_injecting = kube.mode.injects or fields.flag(context.obj, "spec.metadataEnrichment.enabled") is True
    return is_injecting and not (kube.allows_csi and context.cache.csi_installed)


def _auths(secret: api.Object | None, what: str) -> dict[str, Any]:
    if secret is None:
        raise _UnusableError(f"the {what} does not exist: create it, or take it out of the chart's image.pullSecrets")
    text = (secret.get("data") or {}).get(pull_secret.DOCKER_CONFIG_KEY, "")
    try:
        auths = json.loads(base64.b64decode(text))["auths"]
    except (binascii.Error, ValueError, TypeError, LookupError, RecursionError):
        auths = None
    if not isinstance(auths, dict):
        raise _UnusableError(f"the {what} has no credentials: it must be of the type {_TYPE}, with the key auths")
    return auths
