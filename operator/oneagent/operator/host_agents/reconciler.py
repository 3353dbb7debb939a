"""Reconciles the OneAgent DaemonSet of a DynaKube and reports its rollout.

    no host agents       the mode has none: delete the DaemonSet
    invalid field        leave running agents unchanged
    node conflict        an older DynaKube selects the same node: apply nothing, and delete the DaemonSet if it
                         would run on such a node
    apply                if something differs; then report the progress

Kubernetes' DaemonSet controller updates the nodes, at most `maxUnavailable` at a time, and waits for agents that are
not ready.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from oneagent.common import logs
from oneagent.common.dynakube import public_registry
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.common.kubernetes.errors import InvalidError
from oneagent.operator import api, reconcile_result
from oneagent.operator.host_agents import daemonset, image, node_conflicts, rollout, secrets, spec
from oneagent.operator.host_agents.inputs import HostAgentInputs
from oneagent.operator.reconcile_context import ReconcileContext

log = logging.getLogger(__name__)

INVALID_FIELD: Final = "FieldUnusable"
REFUSED: Final = "DaemonSetRefused"
NOT_OURS: Final = "NotOurs"
NODES_TAKEN: Final = "NodesTaken"
TENANT_UNKNOWN: Final = "WaitingForTenant"
VERSION_UNKNOWN: Final = "VersionNotKnown"
REPLACING: Final = "DaemonSetReplaced"
ROLLING: Final = "Rolling"
STUCK: Final = "RolloutStuck"
NO_NODES: Final = "NoNodes"
READY: Final = "AgentsReady"

_REPLACE_REQUEUE_SECONDS: Final = 5.0
_REQUEUE_SECONDS: Final = 60.0
_SECRETS_RESYNC_SECONDS: Final = 3600.0
"""Interval after which Secrets are written again, to undo changes by others; they are not watched."""


@dataclass(frozen=True, slots=True)
class _UserSecrets:
    """Values from the user's Secrets; read again after each poll, which a change of them starts."""

    key: tuple[object, ...]
    """Poll and settings that the values were read for."""
    password: str = field(repr=False)
    proxy: str = field(repr=False)


@dataclass(slots=True)
class _Applied:
    """Objects applied for a DynaKube; empty after a start, so that everything is applied once."""

    user_secrets: _UserSecrets | None = None
    secrets: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Digest and time of writing, by name."""
    digest: str = ""
    uid: str = ""
    generation: int = 0


class HostAgentReconciler:
    condition = "OneAgentDaemonSet"

    def __init__(self, operator_version: str) -> None:
        self._operator_version = operator_version
        self._applied: dict[DynaKubeName, _Applied] = {}

    def forget_applied(self) -> None:
        """Apply everything once more: etcd was restored from a backup."""
        self._applied.clear()

    async def reconcile(self, context: ReconcileContext) -> reconcile_result.ReconcileResult | None:
        if not context.dynakube.mode.runs_on_hosts:
            await self.finalize(context)
            return None
        try:
            return await self._reconcile(context)
        except kubernetes_fields.FieldError as error:
            result = reconcile_result.failed(INVALID_FIELD, f"{error}; running host agents stay unchanged")
        except InvalidError as error:
            result = reconcile_result.failed(REFUSED, f"{error}; running host agents stay unchanged", _REQUEUE_SECONDS)
        return _with_status(result, context)

    async def finalize(self, context: ReconcileContext) -> None:
        """Delete DaemonSet and Secrets; without a request if the DynaKube never had host agents."""
        kube, current = context.dynakube, _daemon_set(context)
        applied = self._applied.pop(kube.name, None)
        if current is None and applied is None:
            return
        # The DaemonSet last: while it exists, an interrupted clean-up is repeated.
        for name in (secrets.name(kube), secrets.pull_name(kube)):
            secret = await context.api.find(api.SECRETS, name, kube.namespace)
            if secret and _is_ours(secret, context):
                await context.api.delete(api.SECRETS, name, kube.namespace)
        if current is None or _is_ours(current, context):
            await self._delete(context)

    async def _reconcile(self, context: ReconcileContext) -> reconcile_result.ReconcileResult:
        kube, current = context.dynakube, _daemon_set(context)
        agent = spec.from_object(context.obj, kube.mode)
        if current is not None and not _is_ours(current, context):
            message = f"the DaemonSet {secrets.name(kube)} belongs to another owner: rename it, or the DynaKube"
            return reconcile_result.failed(NOT_OURS, message)
        if not agent.may_share_nodes and (conflict := _find_conflict(context)):
            return await self._yield_nodes(context, conflict)
        if current is not None and (replacing := await self._delete_for_replacement(context, current)):
            return replacing
        if context.tenant_state.tenant is None or not context.cache.cluster_id:
            return _with_status(
                reconcile_result.pending(TENANT_UNKNOWN, "waiting for the first answer of the tenant"), context
            )
        status = context.section("oneAgent")
        decided = str(status.get("version") or "")
        public = public_registry.decided_image({"status": {"oneAgent": status}}, "oneAgent")
        choice = image.choose(agent, kube, decided, _running_version(current), public)
        if choice is None:
            return _with_status(
                reconcile_result.pending(VERSION_UNKNOWN, "the desired version is not known yet"), context
            )
        api_version = kubernetes_fields.text(context.obj, "apiVersion")
        inputs = await self._read_inputs(context, agent)
        has_driver = kube.mode.has_host_volume and context.cache.csi_installed
        desired = daemonset.Desired(kube, agent, choice, inputs, api_version, has_driver)
        updated = await self._apply(context, current, desired)
        return _with_status(_result(rollout.progress(updated, _pods(context), context.now), choice), context, desired)

    async def _yield_nodes(
        self, context: ReconcileContext, conflict: tuple[node_conflicts.Claim, node_conflicts.Overlap]
    ) -> reconcile_result.ReconcileResult:
        """Leave the nodes to the older DynaKube; agents that run on them are deleted."""
        (older, overlap), current = conflict, _daemon_set(context)
        runs_on = kubernetes_fields.at(current, "spec.template.spec.nodeSelector") or {}
        conflicts = isinstance(runs_on, Mapping) and node_conflicts.overlap(
            runs_on, older.selector, context.cache.nodes
        )
        if current is not None and conflicts:
            await self._delete(context)
        example = f" ({overlap.nodes[0]} is one of {len(overlap.nodes)})" if overlap.nodes else ""
        field_ = f"{spec.section(context.dynakube.mode)}.nodeSelector"
        message = f"{field_} selects nodes of the older DynaKube {older.dynakube}{example}"
        remedy = "change the nodeSelectors so that they do not overlap"
        return _with_status(reconcile_result.failed(NODES_TAKEN, f"{message}; {remedy}", _REQUEUE_SECONDS), context)

    async def _delete_for_replacement(
        self, context: ReconcileContext, current: api.Object
    ) -> reconcile_result.ReconcileResult | None:
        """Delete a DaemonSet with another selector, which is immutable, to create it again."""
        if "deletionTimestamp" not in current["metadata"]:
            if kubernetes_fields.at(current, "spec.selector.matchLabels") == daemonset.selector(context.dynakube.name):
                return None
            await self._delete(context)
        message = "the former DaemonSet is being deleted before it is created again"
        return _with_status(reconcile_result.pending(REPLACING, message, _REPLACE_REQUEUE_SECONDS), context)

    async def _read_inputs(self, context: ReconcileContext, agent: spec.HostAgent) -> HostAgentInputs:
        assert context.tenant_state.tenant is not None
        user_secrets = await self._read_user_secrets(context, uses_proxy=agent.uses_proxy)
        return HostAgentInputs(
            tenant=context.tenant_state.tenant,
            tenant_token=context.tenant_state.tenant_token,
            endpoints=context.tenant_state.endpoints,
            cluster_id=context.cache.cluster_id,
            operator_version=self._operator_version,
            registry_password=user_secrets.password,
            proxy=user_secrets.proxy,
        )

    async def _read_user_secrets(self, context: ReconcileContext, *, uses_proxy: bool) -> _UserSecrets:
        kube, applied = context.dynakube, self._applied.setdefault(context.dynakube.name, _Applied())
        key = (context.tenant_state.polled_at, kube.tokens_secret, kube.proxy, kube.proxy_secret, uses_proxy)
        if applied.user_secrets is None or applied.user_secrets.key != key:
            tokens = await self._read_content(context, kube.tokens_secret)
            proxy = kube.proxy
            if kube.proxy_secret and not proxy and uses_proxy:
                proxy = (await self._read_content(context, kube.proxy_secret)).get("proxy", "")
                if not proxy:
                    remedy = "create this Secret with the proxy's URL under the key proxy"
                    raise kubernetes_fields.FieldError("spec.proxy.valueFrom", kube.proxy_secret, remedy)
            password = tokens.get("paasToken") or tokens.get("apiToken") or ""
            applied.user_secrets = _UserSecrets(key, password, proxy)
        return applied.user_secrets

    async def _read_content(self, context: ReconcileContext, name: str) -> Mapping[str, str]:
        found = await context.api.find(api.SECRETS, name, context.dynakube.namespace)
        return api.decode_data(found) if found else {}

    async def _apply(
        self, context: ReconcileContext, current: api.Object | None, desired: daemonset.Desired
    ) -> api.Object:
        """Apply what differs; return the DaemonSet."""
        applied = self._applied.setdefault(context.dynakube.name, _Applied())
        await self._apply_secrets(context, applied, desired)
        daemon_set = daemonset.daemon_set(desired)
        digest = daemon_set["metadata"]["annotations"][daemonset.DIGEST]
        if current is not None and _is_current(current, applied, digest):
            return current
        updated = await context.api.apply(api.DAEMON_SETS, daemon_set)
        metadata = updated["metadata"]
        applied.digest, applied.uid, applied.generation = digest, metadata["uid"], metadata["generation"]
        if current is None or current["metadata"].get("generation") != applied.generation:
            log.info("DaemonSet applied", extra=logs.fields(dynakube=context.dynakube.name, image=desired.choice.image))
        return updated

    async def _apply_secrets(self, context: ReconcileContext, applied: _Applied, desired: daemonset.Desired) -> None:
        kube, inputs = desired.kube, desired.inputs
        contents = {secrets.name(kube): ("Opaque", secrets.build_contents(kube, inputs))}
        if inputs.registry_password and daemonset.pull_secret(desired) == secrets.pull_name(kube):
            contents[secrets.pull_name(kube)] = (
                "kubernetes.io/dockerconfigjson",
                secrets.build_pull_contents(kube, inputs),
            )
        for name, (kind, data) in contents.items():
            secret = secrets.build(kind, daemonset.metadata(kube, name, desired.api_version), data)
            digest = hashlib.sha256(repr(secret).encode()).hexdigest()
            before, written_at = applied.secrets.get(name, ("", 0.0))
            if before != digest or context.now - written_at > _SECRETS_RESYNC_SECONDS:
                await self._check_owner(context, name)
                await context.api.apply(api.SECRETS, secret)
                applied.secrets[name] = digest, context.now

    async def _check_owner(self, context: ReconcileContext, name: str) -> None:
        """Raise `FieldError` if another owner has a Secret of this name."""
        secret = await context.api.find(api.SECRETS, name, context.dynakube.namespace)
        if secret and not _is_ours(secret, context):
            remedy = f"needs the Secret {name}, which belongs to another owner; rename one of the two"
            raise kubernetes_fields.FieldError("metadata.name", str(context.dynakube.name), remedy)

    async def _delete(self, context: ReconcileContext) -> None:
        if applied := self._applied.get(context.dynakube.name):
            applied.digest = ""
        await context.api.delete(api.DAEMON_SETS, secrets.name(context.dynakube), context.dynakube.namespace)
        log.info("DaemonSet deleted", extra=logs.fields(dynakube=context.dynakube.name))


def _daemon_set(context: ReconcileContext) -> api.Object | None:
    return context.cache.daemon_sets.get(secrets.name(context.dynakube))


def _pods(context: ReconcileContext) -> list[api.Object]:
    labels = daemonset.selector(context.dynakube.name).items()
    pods = context.cache.agent_pods.values()
    return [pod for pod in pods if labels <= (pod["metadata"].get("labels") or {}).items()]


def _find_conflict(context: ReconcileContext) -> tuple[node_conflicts.Claim, node_conflicts.Overlap] | None:
    mine = node_conflicts.claim(context.obj)
    others = [found for obj in context.cache.dynakubes.values() if (found := node_conflicts.claim(obj))]
    return node_conflicts.oldest_conflicting(mine, others, context.cache.nodes) if mine else None


def _is_ours(obj: Mapping[str, Any], context: ReconcileContext) -> bool:
    """True if an operator, maybe another one, created the object for this DynaKube."""
    metadata = obj["metadata"]
    managed = (metadata.get("labels") or {}).get("app.kubernetes.io/managed-by") == daemonset.MANAGER
    return managed or any(owner.get("uid") == context.dynakube.uid for owner in metadata.get("ownerReferences") or ())


def _is_current(current: Mapping[str, Any], applied: _Applied, digest: str) -> bool:
    """True if the DaemonSet is the one that was applied.

    A higher generation means that another client has changed it, a lower one that the watch lags behind.
    """
    metadata = current["metadata"]
    recorded = (metadata.get("annotations") or {}).get(daemonset.DIGEST)
    same = applied.digest == digest == recorded and applied.uid == metadata.get("uid")
    return same and metadata.get("generation", 0) <= applied.generation


def _running_version(current: Mapping[str, Any] | None) -> str:
    labels = kubernetes_fields.at(current, "metadata.labels")
    return str(labels.get(daemonset.VERSION_LABEL, "")) if isinstance(labels, Mapping) else ""


def _result(progress: rollout.Progress, choice: image.Choice) -> reconcile_result.ReconcileResult:
    note = f", {choice.note}" if choice.note else ""
    message = f"OneAgent {choice.version or choice.image}{note}: {progress.message}"
    match progress.state:
        case "done":
            return reconcile_result.ok(READY, message)
        case "no nodes":
            return reconcile_result.ok(NO_NODES, message)
        case "stuck":
            return reconcile_result.failed(STUCK, message, progress.requeue_seconds)
        case "rolling":
            return reconcile_result.pending(ROLLING, message, progress.requeue_seconds)


def _with_status(
    result: reconcile_result.ReconcileResult, context: ReconcileContext, desired: daemonset.Desired | None = None
) -> reconcile_result.ReconcileResult:
    """Add the known fields of the status section `oneAgent`."""
    fields: dict[str, Any] = {"instances": rollout.instances(_pods(context))}
    if desired is None:
        # Still true of the running agents.
        fields |= {key: value for key, value in context.section("oneAgent").items() if key == "imageID"}
    else:
        fields |= {"version": desired.choice.version, "imageID": desired.choice.image}
    return reconcile_result.ReconcileResult(
        result.status, result.reason, result.message, result.requeue_seconds, {"oneAgent": fields}
    )
