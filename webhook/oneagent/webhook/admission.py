"""Answers to admission requests; any failure admits the object.

    /inject     pods that are created       never denied; an error: unchanged, but for annotations with the reason
    /label-ns   namespaces                  never denied; an error: unchanged
    /validate   DynaKubes                   denied with all errors found; an error of ours: allowed, with a warning

So a bug, an API server that does not answer, or an unexpected pod costs monitoring and never a pod. Every answer is
an `AdmissionDecision`, which also has the fields for log and metrics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from oneagent.common import identifiers, logs
from oneagent.common.injection import pod_annotations, skip_reasons
from oneagent.webhook import admission_review, events, json_patch, namespace_label
from oneagent.webhook.admission_review import InvalidError, Request, Status, TooLargeError
from oneagent.webhook.injection.inputs import InjectionResult, Notice, Object, PodContext

log = logging.getLogger(__name__)

NOT_INJECTED: Final = "InjectionFailed"
"""Reason of the Event about a pod whose admission failed."""


class Reason:
    """Reasons for answers without a decision; `skip_reasons` has those of pods."""

    INTERNAL_ERROR: Final = "InternalError"
    TIMEOUT: Final = "Timeout"
    NOT_ASKED_FOR: Final = "NotAPodCreation"
    """The webhook configuration sends other requests than it should."""
    NOT_SYNCED: Final = "NotSynced"
    """The webhook has just started, and its cache is not filled yet."""
    INVALID: Final = "Invalid"
    TOO_LARGE: Final = "TooLarge"


class Cluster(Protocol):
    """The cluster's state, from watches."""

    @property
    def is_synced(self) -> bool: ...
    def dynakubes(self) -> Sequence[Object]: ...
    async def pod_context(self, namespace: str, pod: Object) -> PodContext | None: ...


class ValidationResult(Protocol):
    @property
    def errors(self) -> Sequence[str]: ...
    @property
    def warnings(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Handlers:
    """The functions behind the three answers."""

    inject: Callable[[Object, PodContext], InjectionResult]
    validate: Callable[[Object, Object | None], Awaitable[ValidationResult]]
    message: Callable[[Sequence[str]], str]
    """Format a DynaKube's validation errors for users."""


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """An answer. `outcome` and `reason` are constants, as they are labels of a metric."""

    outcome: str
    reason: str = ""
    patch: Sequence[Object] = ()
    warnings: Sequence[str] = ()
    denied: Status | None = None
    dynakube: str | None = None
    """Name of the DynaKube of an admitted pod; empty if it is not known, None if the pod is to have no agent of any"""


class Admission:
    """Admission handlers by path, for one event loop."""

    def __init__(self, cluster: Cluster, handlers: Handlers, recorder: events.Recorder, own_namespace: str) -> None:
        self._cluster, self._handlers, self._events, self._own = cluster, handlers, recorder, own_namespace
        self._handlers_by_path: Mapping[str, tuple[_Rule, _Fallback]] = {
            "/inject": (self._inject, self._not_injected),
            "/label-ns": (self._label, _unchanged),
            "/validate": (self._validate, _unvalidated),
        }

    async def decide(self, path: str, request: Request, seconds: float) -> AdmissionDecision:
        """Decide a request within `seconds`; never raises."""
        decide, fallback = self._handlers_by_path[path]
        try:
            async with asyncio.timeout(seconds):
                return await decide(request)
        except Exception as error:
            reason = Reason.TIMEOUT if isinstance(error, TimeoutError) else Reason.INTERNAL_ERROR
            about = logs.fields(path=path, namespace=request.namespace, name=request.name, uid=request.uid)
            log.exception("admission failed, object admitted unchanged", extra=about)
            return fallback(request, reason)

    async def _inject(self, request: Request) -> AdmissionDecision:
        try:
            pod = admission_review.decoded(request.object)
        except TooLargeError as error:
            return await self._leave_large_pod(request, error)
        except InvalidError as error:
            skip = replace(skip_reasons.INVALID_POD, detail=str(error))
            return AdmissionDecision("skipped", skip.reason, warnings=(f"the pod is not injected: {skip}",))
        if pod is None or request.sub_resource or (request.kind.kind, request.operation) != ("Pod", "CREATE"):
            return AdmissionDecision("skipped", Reason.NOT_ASKED_FOR)
        if not self._cluster.is_synced:
            return self._not_injected(request, Reason.NOT_SYNCED)
        context = await self._cluster.pod_context(request.namespace or "", pod)
        if context is None:
            return AdmissionDecision("skipped", skip_reasons.NAMESPACE_NOT_MONITORED.reason)
        outcome = self._handlers.inject(pod, context)
        self._record_events(request, pod, outcome.notices)
        return AdmissionDecision(
            "injected" if outcome.injected else "skipped",
            outcome.reason,
            outcome.patch,
            outcome.warnings,
            dynakube=_name(context),
        )

    async def _leave_large_pod(self, request: Request, error: TooLargeError) -> AdmissionDecision:
        """Leave a pod alone of which nothing is decoded but that there are annotations."""
        context = await self._cluster.pod_context(request.namespace or "", {})
        if context is None:
            return AdmissionDecision("skipped", skip_reasons.NAMESPACE_NOT_MONITORED.reason)
        skip = replace(skip_reasons.TOO_LARGE, detail=str(error))
        annotations = {
            pod_annotations.AGENT_INJECTED: "false",
            pod_annotations.REASON: skip.reason,
            pod_annotations.DYNAKUBE_INJECTED: "false",
        }
        has_annotations = admission_review.has_annotations(request.object)
        outline = {"metadata": {"annotations": {"": ""} if has_annotations else {}}}
        patch = [] if has_annotations is None else json_patch.metadata(outline, "annotations", annotations)
        warnings = (f"pod {request.name or ''} is not injected: {skip}",)
        return AdmissionDecision("skipped", skip.reason, patch, warnings, dynakube=_name(context))

    async def _label(self, request: Request) -> AdmissionDecision:
        try:
            namespace = admission_review.decoded(request.object)
        except TooLargeError:
            return AdmissionDecision("unchanged", Reason.TOO_LARGE)
        except InvalidError:
            return AdmissionDecision("unchanged", Reason.INVALID)
        if namespace is None or request.kind.kind != "Namespace" or request.operation not in ("CREATE", "UPDATE"):
            return AdmissionDecision("unchanged", Reason.NOT_ASKED_FOR)
        if not self._cluster.is_synced:
            # Without all DynaKubes a valid label would be removed.
            return AdmissionDecision("unchanged", Reason.NOT_SYNCED)
        if not namespace.get("metadata"):
            return AdmissionDecision("unchanged", Reason.INVALID)
        patch = namespace_label.patch(namespace, self._cluster.dynakubes(), self._own)
        return AdmissionDecision("changed" if patch else "unchanged", patch=patch)

    async def _validate(self, request: Request) -> AdmissionDecision:
        try:
            new = admission_review.decoded_dynakube(request.object)
            old = admission_review.decoded(request.old_object)
        except TooLargeError as error:
            return self._deny(Reason.TOO_LARGE, [f"The DynaKube is too large: {error}. Make sure that it is smaller."])
        except InvalidError as error:
            return self._deny(Reason.INVALID, [f"The DynaKube is invalid: {error}. Make sure that it is an object."])
        is_known = request.kind.kind in ("DynaKube", identifiers.INJECTION_KIND)
        if new is None or not is_known or request.operation not in ("CREATE", "UPDATE"):
            return AdmissionDecision("allowed", Reason.NOT_ASKED_FOR)
        result = await self._handlers.validate(new, old)
        if not result.errors:
            return AdmissionDecision("allowed", warnings=result.warnings)
        return self._deny(Reason.INVALID, result.errors, result.warnings, kind=request.kind.kind)

    def _deny(
        self, reason: str, errors: Sequence[str], warnings: Sequence[str] = (), *, kind: str = "DynaKube"
    ) -> AdmissionDecision:
        # Not 422 with `Invalid`: `kubectl apply --force` then deletes the object and creates it again.
        message = self._handlers.message(errors)
        if kind == identifiers.INJECTION_KIND:
            message = message.replace("the Dynakube", f"the {kind}", 1)
        status = Status("Failure", message, "Forbidden", 403)
        return AdmissionDecision("denied", reason, warnings=warnings, denied=status)

    def _not_injected(self, request: Request, reason: str) -> AdmissionDecision:
        shown = Reason.NOT_SYNCED if reason == Reason.NOT_SYNCED else Reason.INTERNAL_ERROR
        warning = (
            f"OneAgent was not injected into this pod ({shown}). Make sure to look at the log of oneagent-webhook."
        )
        wanted: dict[str, str | None] = {pod_annotations.AGENT_INJECTED: "false", pod_annotations.REASON: shown}
        try:
            pod = admission_review.decoded(request.object) or {}
            patch = json_patch.metadata(pod, "annotations", wanted) if pod.get("metadata") else []
            self._record_events(request, pod, [Notice("Warning", NOT_INJECTED, warning)])
        except Exception:  # noqa: BLE001 - the object may be no pod, which is why it failed before
            patch = []
        return AdmissionDecision("error", reason, patch, (warning,), dynakube="")

    def _record_events(self, request: Request, pod: Object, notices: Sequence[Notice]) -> None:
        for notice in () if request.dry_run else notices:
            self._events.record(events.subject_of_pod(pod, request.namespace or ""), notice)


_Rule = Callable[[Request], Awaitable[AdmissionDecision]]
_Fallback = Callable[[Request, str], AdmissionDecision]


def _name(context: PodContext) -> str:
    """Return the name of the namespace's DynaKube; empty if there is none of the name in its label."""
    name = ((context.dynakube or {}).get("metadata") or {}).get("name")
    return name if isinstance(name, str) else ""


def _unchanged(_: Request, reason: str) -> AdmissionDecision:
    return AdmissionDecision("error", reason)


def _unvalidated(_: Request, reason: str) -> AdmissionDecision:
    warning = f"The DynaKube was not validated, by an error of the webhook ({reason}). Make sure to look at its log."
    return AdmissionDecision("error", reason, warnings=(warning,))
