"""Keeps the OneAgent DaemonSet of a DynaKube right, and says how its rollout gets on.

    no host agents       the mode has none: the DaemonSet goes
    a field is wrong     what runs stays as it is
    stand back           an older DynaKube has a node that this one selects: nothing is applied, and what runs goes
                         if it would run on such a node
    apply                only what differs; then tell how far it is

Kubernetes' DaemonSet controller does the rolling, as many nodes at a time as the DaemonSet says, and waits for
agents that do not get ready.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from oneagent.common import logs
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.common.kubernetes.errors import InvalidError
from oneagent.operator import api, reconcile_result
from oneagent.operator.host_agents import csi, daemonset, image, node_conflicts, rollout, secrets, spec
from oneagent.operator.host_agents.inputs import HostAgentInputs
from oneagent.operator.reconcilers.context import ReconcileContext

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

_SOON_SECONDS: Final = 5.0
_LATER_SECONDS: Final = 60.0
_SECRETS_SECONDS: Final = 3600.0
"""After this time Secrets are written again, in case that somebody has changed them."""


@dataclass(frozen=True, slots=True)
class _UserSecrets:
    """What of the user's Secrets host agents need; read after the tenant was asked, as it is after a change of them."""

    asked_for: tuple[object, ...]
    password: str = field(repr=False)
    proxy: str = field(repr=False)


@dataclass(slots=True)
class _Known:
    """What was done for a DynaKube; after a start nothing is known, and everything is applied once."""

    borrowed: _UserSecrets | None = None
    secrets: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By name: a digest of what was written, and when."""
    digest: str = ""
    uid: str = ""
    generation: int = 0


class HostAgents:
    condition = "OneAgentDaemonSet"

    def __init__(self, operator_version: str) -> None:
        self._operator_version = operator_version
        self._known: dict[DynaKubeName, _Known] = {}

    async def reconcile(self, context: ReconcileContext) -> reconcile_result.ReconcileResult | None:
        if not spec.has_host_agents(context.dynakube.mode):
            await self.finalize(context)
            return None
        try:
            return await self._reconcile(context)
        except kubernetes_fields.FieldError as error:
            verdict = reconcile_result.failed(INVALID_FIELD, f"{error}; host agents stay as they are")
        except InvalidError as error:
            verdict = reconcile_result.failed(REFUSED, f"{error}; host agents stay as they are", _LATER_SECONDS)
        return _told(verdict, context)

    async def finalize(self, context: ReconcileContext) -> None:
        """Only what is there or may be: a DynaKube that never had host agents costs no request."""
        kube, there = context.dynakube, _daemon_set(context)
        known = self._known.pop(kube.name, None)
        if there is None and known is None:
            return
        # The DaemonSet last: as long as it is there, what was interrupted is taken up again.
        for name in (secrets.name(kube), secrets.pull_name(kube)):
            secret = await context.api.find(api.SECRETS, name, kube.namespace)
            if secret and _is_ours(secret, context):
                await context.api.delete(api.SECRETS, name, kube.namespace)
        if there is None or _is_ours(there, context):
            await self._delete(context)

    async def _reconcile(self, context: ReconcileContext) -> reconcile_result.ReconcileResult:
        kube, there = context.dynakube, _daemon_set(context)
        agent = spec.from_manifest(context.obj, kube.mode)
        if there is not None and not _is_ours(there, context):
            message = f"the DaemonSet {secrets.name(kube)} is somebody else's: rename it, or the DynaKube"
            return reconcile_result.failed(NOT_OURS, message)
        if not agent.may_share_nodes and (taken := _taken(context)):
            return await self._yield_nodes(context, taken)
        if there is not None and (replacing := await self._delete_for_replacement(context, there)):
            return replacing
        if context.tenant_state.tenant is None or not context.cache.cluster_id:
            return _told(reconcile_result.pending(TENANT_UNKNOWN, "the tenant has not answered yet"), context)
        decided = str(context.section("oneAgent").get("version") or "")
        choice = image.choose(agent, kube, decided, _running_version(there))
        if choice is None:
            return _told(reconcile_result.pending(VERSION_UNKNOWN, "which version is wanted is not known yet"), context)
        api_version = kubernetes_fields.text(context.obj, "apiVersion")
        facts = await self._facts(context, agent)
        has_driver = csi.wants_driver(kube.mode) and context.cache.csi_installed
        wanted = daemonset.Wanted(kube, agent, choice, facts, api_version, has_driver)
        now = await self._keep(context, there, wanted)
        return _told(_verdict(rollout.progress(now, _pods(context), context.now), choice), context, wanted)

    async def _yield_nodes(
        self, context: ReconcileContext, taken: tuple[node_conflicts.Claim, node_conflicts.Overlap]
    ) -> reconcile_result.ReconcileResult:
        (oldest_conflicting, overlap), there = taken, _daemon_set(context)
        runs_on = kubernetes_fields.at(there, "spec.template.spec.nodeSelector") or {}
        meets = isinstance(runs_on, Mapping) and node_conflicts.overlap(
            runs_on, oldest_conflicting.selector, context.cache.nodes
        )
        if there is not None and meets:
            await self._delete(context)
        which = f" ({overlap.nodes[0]} is one of {len(overlap.nodes)})" if overlap.nodes else ""
        field_ = f"{spec.section(context.dynakube.mode)}.nodeSelector"
        message = f"{field_} selects nodes that the older DynaKube {oldest_conflicting.dynakube} has{which}"
        remedy = "make the nodeSelectors of the two exclude each other"
        return _told(reconcile_result.failed(NODES_TAKEN, f"{message}; {remedy}", _LATER_SECONDS), context)

    async def _delete_for_replacement(
        self, context: ReconcileContext, there: api.Object
    ) -> reconcile_result.ReconcileResult | None:
        """A DaemonSet's selector cannot be changed, so one with another selector is made anew."""
        if "deletionTimestamp" not in there["metadata"]:
            if kubernetes_fields.at(there, "spec.selector.matchLabels") == daemonset.selector(context.dynakube.name):
                return None
            await self._delete(context)
        message = "the former DaemonSet is being deleted, to be made anew"
        return _told(reconcile_result.pending(REPLACING, message, _SOON_SECONDS), context)

    async def _facts(self, context: ReconcileContext, agent: spec.HostAgent) -> HostAgentInputs:
        assert context.tenant_state.tenant is not None
        borrowed = await self._borrowed(context, uses_proxy=agent.uses_proxy)
        return HostAgentInputs(
            tenant=context.tenant_state.tenant,
            tenant_token=context.tenant_state.tenant_token,
            endpoints=context.tenant_state.endpoints,
            cluster_id=context.cache.cluster_id,
            operator_version=self._operator_version,
            registry_password=borrowed.password,
            proxy=borrowed.proxy,
        )

    async def _borrowed(self, context: ReconcileContext, *, uses_proxy: bool) -> _UserSecrets:
        kube, known = context.dynakube, self._known.setdefault(context.dynakube.name, _Known())
        asked_for = (context.tenant_state.asked_at, kube.tokens_secret, kube.proxy, kube.proxy_secret, uses_proxy)
        if known.borrowed is None or known.borrowed.asked_for != asked_for:
            tokens = await self._content(context, kube.tokens_secret)
            proxy = kube.proxy
            if kube.proxy_secret and not proxy and uses_proxy:
                proxy = (await self._content(context, kube.proxy_secret)).get("proxy", "")
                if not proxy:
                    remedy = "create this Secret, with the proxy's URL at the key proxy"
                    raise kubernetes_fields.FieldError("spec.proxy.valueFrom", kube.proxy_secret, remedy)
            password = tokens.get("paasToken") or tokens.get("apiToken") or ""
            known.borrowed = _UserSecrets(asked_for, password, proxy)
        return known.borrowed

    async def _content(self, context: ReconcileContext, name: str) -> Mapping[str, str]:
        found = await context.api.find(api.SECRETS, name, context.dynakube.namespace)
        return api.content(found) if found else {}

    async def _keep(self, context: ReconcileContext, there: api.Object | None, wanted: daemonset.Wanted) -> api.Object:
        """Apply what differs; the DaemonSet as it is then."""
        known = self._known.setdefault(context.dynakube.name, _Known())
        await self._keep_secrets(context, known, wanted)
        whole = daemonset.daemon_set(wanted)
        digest = whole["metadata"]["annotations"][daemonset.DIGEST]
        if there is not None and _is_current(there, known, digest):
            return there
        now = await context.api.apply(api.DAEMON_SETS, whole)
        known.digest, known.uid, known.generation = digest, now["metadata"]["uid"], now["metadata"]["generation"]
        if there is None or there["metadata"].get("generation") != known.generation:
            log.info("DaemonSet applied", extra=logs.facts(dynakube=context.dynakube.name, image=wanted.choice.image))
        return now

    async def _keep_secrets(self, context: ReconcileContext, known: _Known, wanted: daemonset.Wanted) -> None:
        kube, facts = wanted.kube, wanted.facts
        kept = {secrets.name(kube): ("Opaque", secrets.contents(kube, facts))}
        if facts.registry_password and daemonset.pull_secret(wanted) == secrets.pull_name(kube):
            kept[secrets.pull_name(kube)] = ("kubernetes.io/dockerconfigjson", secrets.pull_contents(kube, facts))
        for name, (kind, data) in kept.items():
            whole = secrets.manifest(kind, daemonset.metadata(kube, name, wanted.api_version), data)
            digest = hashlib.sha256(repr(whole).encode()).hexdigest()
            before, written_at = known.secrets.get(name, ("", 0.0))
            if before != digest or context.now - written_at > _SECRETS_SECONDS:
                await self._refuse_others(context, name)
                await context.api.apply(api.SECRETS, whole)
                known.secrets[name] = digest, context.now

    async def _refuse_others(self, context: ReconcileContext, name: str) -> None:
        there = await context.api.find(api.SECRETS, name, context.dynakube.namespace)
        if there and not _is_ours(there, context):
            remedy = f"its Secret {name} would be in the place of somebody else's; rename one of the two"
            raise kubernetes_fields.FieldError("metadata.name", str(context.dynakube.name), remedy)

    async def _delete(self, context: ReconcileContext) -> None:
        if known := self._known.get(context.dynakube.name):
            known.digest = ""
        await context.api.delete(api.DAEMON_SETS, secrets.name(context.dynakube), context.dynakube.namespace)
        log.info("DaemonSet deleted", extra=logs.facts(dynakube=context.dynakube.name))


def _daemon_set(context: ReconcileContext) -> api.Object | None:
    return context.cache.daemon_sets.get(secrets.name(context.dynakube))


def _pods(context: ReconcileContext) -> list[api.Object]:
    labels = daemonset.selector(context.dynakube.name).items()
    pods = context.cache.agent_pods.values()
    return [pod for pod in pods if labels <= (pod["metadata"].get("labels") or {}).items()]


def _taken(context: ReconcileContext) -> tuple[node_conflicts.Claim, node_conflicts.Overlap] | None:
    mine = node_conflicts.claim(context.obj)
    others = [found for obj in context.cache.dynakubes.values() if (found := node_conflicts.claim(obj))]
    return node_conflicts.oldest_conflicting(mine, others, context.cache.nodes) if mine else None


def _is_ours(obj: Mapping[str, Any], context: ReconcileContext) -> bool:
    """Made by an operator for this DynaKube, be it another program."""
    metadata = obj["metadata"]
    managed = (metadata.get("labels") or {}).get("app.kubernetes.io/managed-by") == daemonset.MANAGER
    return managed or any(owner.get("uid") == context.dynakube.uid for owner in metadata.get("ownerReferences") or ())


def _is_current(there: Mapping[str, Any], known: _Known, digest: str) -> bool:
    """Whether the DaemonSet is what was applied.

    A higher generation than ours means that somebody else has changed it; a lower one that the watch lags behind.
    """
    metadata = there["metadata"]
    says = (metadata.get("annotations") or {}).get(daemonset.DIGEST)
    same = known.digest == digest == says and known.uid == metadata.get("uid")
    return same and metadata.get("generation", 0) <= known.generation


def _running_version(there: Mapping[str, Any] | None) -> str:
    found = kubernetes_fields.at(there, "metadata.labels")
    return str(found.get(daemonset.VERSION_LABEL, "")) if isinstance(found, Mapping) else ""


def _verdict(progress: rollout.Progress, choice: image.Choice) -> reconcile_result.ReconcileResult:
    note = f", {choice.note}" if choice.note else ""
    message = f"OneAgent {choice.version or choice.image}{note}: {progress.message}"
    match progress.state:
        case "done":
            return reconcile_result.ok(READY, message)
        case "no nodes":
            return reconcile_result.ok(NO_NODES, message)
        case "stuck":
            return reconcile_result.failed(STUCK, message, progress.again_seconds)
        case "rolling":
            return reconcile_result.pending(ROLLING, message, progress.again_seconds)


def _told(
    verdict: reconcile_result.ReconcileResult, context: ReconcileContext, wanted: daemonset.Wanted | None = None
) -> reconcile_result.ReconcileResult:
    """With what the status says of host agents, as far as it is known."""
    told: dict[str, Any] = {"instances": rollout.instances(_pods(context))}
    if wanted is None:
        # What was true of what runs stays true.
        told |= {key: value for key, value in context.section("oneAgent").items() if key == "imageID"}
    else:
        told |= {"version": wanted.choice.version, "imageID": wanted.choice.image}
    return reconcile_result.ReconcileResult(
        verdict.status, verdict.reason, verdict.message, verdict.requeue_seconds, {"oneAgent": told}
    )
