"""Diagnosis of what was named on the command line: a pod, or all pods of a workload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common.node_report import Diagnosis
from oneagent.operator.cli import k8s_objects, kubectl, why
from oneagent.operator.cli.kubectl import Kubectl, Object
from oneagent.operator.cli.why import Evidence, Reason, collect, diagnose

KINDS: Final[Mapping[str, str]] = {
    alias: kind
    for kind, aliases in {
        "pod": ("pod", "pods", "po"),
        "deployment": ("deployment", "deployments", "deploy", "deployment.apps", "deployments.apps"),
        "statefulset": ("statefulset", "statefulsets", "sts", "statefulset.apps", "statefulsets.apps"),
        "daemonset": ("daemonset", "daemonsets", "ds", "daemonset.apps", "daemonsets.apps"),
        "replicaset": ("replicaset", "replicasets", "rs", "replicaset.apps", "replicasets.apps"),
        "job": ("job", "jobs", "job.batch", "jobs.batch"),
        "cronjob": ("cronjob", "cronjobs", "cj", "cronjob.batch", "cronjobs.batch"),
    }.items()
    for alias in aliases
}
"""Kinds by the words that kubectl takes for them. Any other word before the slash is a namespace."""
_MOST_PODS: Final = 20


@dataclass(frozen=True, slots=True)
class TargetDiagnosis:
    """`workload` is `KIND/NAME`, empty of a single pod. `pods` are sorted, the worst first, and never empty."""

    workload: str
    namespace: str
    pods: tuple[tuple[Evidence, Diagnosis], ...]
    left_out: int = 0
    """Pods of the workload that were not looked at"""


def diagnose_target(client: Kubectl, target: tuple[str, str], namespace: str, *, now: float) -> TargetDiagnosis:
    """Diagnose a pod or the pods of a workload; any `KubectlError`.

    `target` is a kind, a namespace or nothing, and a name. Without a namespace, it is that of kubectl's context.
    """
    first, name = target
    kind = KINDS.get(first, "pod")
    if first and first not in KINDS:
        namespace = first
    namespace = namespace or client.current_namespace()
    if kind == "pod":
        return TargetDiagnosis("", namespace, (_diagnose(client, namespace, name, now),))
    title = f"{kind}/{name}"
    workload = client.get(kind, name, "-n", namespace)
    if workload is None:
        listed = f"kubectl -n {namespace} get {kind}s shows those there are"
        return _none(title, namespace, name, now, f"there is no {title} in the namespace {namespace}", listed)
    names = _pods(client, kind, workload, namespace)
    if not names:
        sentence = f"{title} in the namespace {namespace} has no pods{_why_no_pods(workload)}"
        return _none(title, namespace, name, now, sentence, f"kubectl -n {namespace} describe {kind} {name}")
    with kubectl.thread_pool() as pool:
        found = list(pool.map(lambda pod: _diagnose(client, namespace, pod, now), names[:_MOST_PODS]))
    found.sort(key=lambda one: _badness(one[1]), reverse=True)
    return TargetDiagnosis(title, namespace, tuple(found), max(0, len(names) - _MOST_PODS))


def to_json(result: TargetDiagnosis) -> dict[str, Any]:
    """Return the JSON form: of a single pod its own."""
    pods = [why.to_json(evidence, diagnosis) for evidence, diagnosis in result.pods]
    if not result.workload:
        return pods[0]
    return {
        "format": why.JSON_FORMAT, "workload": result.workload, "namespace": result.namespace, "pods": pods,
        "left_out": result.left_out,
    }  # fmt: skip


def _diagnose(client: Kubectl, namespace: str, pod: str, now: float) -> tuple[Evidence, Diagnosis]:
    evidence = collect.collect_evidence(client, namespace, pod, now=now)
    return evidence, diagnose.diagnose(evidence)


def _none(workload: str, namespace: str, name: str, now: float, sentence: str, remedy: str) -> TargetDiagnosis:
    evidence = Evidence(namespace, name, now, exists=False)
    return TargetDiagnosis(workload, namespace, ((evidence, Diagnosis(Reason.NO_POD, sentence, remedy)),))


def _why_no_pods(workload: Object) -> str:
    """Return the reason as the end of a sentence: scaled to 0, or refused by the API server, as by a quota."""
    if workload["spec"].get("replicas") == 0:
        return ": it is scaled to 0"
    failure = k8s_objects.conditions(workload).get("ReplicaFailure", {})
    return f": {failure.get('message', '')}" if failure.get("status") == "True" else ""


def _badness(diagnosis: Diagnosis) -> int:
    if diagnosis.reason in why.AS_INTENDED:
        return 0
    return 1 if diagnosis.reason in why.UNKNOWN else 2


def _pods(client: Kubectl, kind: str, workload: Object, namespace: str) -> list[str]:
    """Return the names of a workload's pods that are not being deleted, the newest first."""
    if kind == "cronjob":
        jobs = [job for job in client.list_objects("jobs", "-n", namespace) if _is_owned(job, workload)]
        workloads = sorted(jobs, key=_created, reverse=True)
    else:
        workloads = [workload]
    pods = [pod for one in workloads for pod in client.list_objects("pods", "-n", namespace, _selector(one))]
    staying = [pod for pod in pods if not k8s_objects.is_deleting(pod)]
    return list(dict.fromkeys(map(k8s_objects.name, sorted(staying, key=_created, reverse=True))))


def _is_owned(obj: Object, owner: Object) -> bool:
    owners: Iterable[Object] = obj["metadata"].get("ownerReferences") or ()
    return any(reference.get("uid") == owner["metadata"].get("uid") for reference in owners)


def _created(obj: Object) -> str:
    return str(obj["metadata"].get("creationTimestamp", ""))


def _selector(workload: Object) -> str:
    """Return the flag that selects the pods of a workload."""
    selector = workload["spec"].get("selector") or {}
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression["key"], ",".join(expression.get("values") or ())
        match expression["operator"]:
            case "In":
                parts.append(f"{key} in ({values})")
            case "NotIn":
                parts.append(f"{key} notin ({values})")
            case "Exists":
                parts.append(key)
            case _:
                parts.append(f"!{key}")
    return f"--selector={','.join(parts)}"
