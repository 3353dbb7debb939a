"""Evidence about one pod, from the API server and from `oneagent-csi why` on its node.

Always returns something: unreadable parts are listed, the others are still read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeVar

from oneagent.common import identifiers
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.injection import contract, pod_annotations
from oneagent.common.node_report import PodReport
from oneagent.operator.cli import k8s_objects, node_reports, snapshot
from oneagent.operator.cli.doctor import dynakubes
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, KubectlUnusableError, Object
from oneagent.operator.cli.snapshot import ClusterSnapshot
from oneagent.operator.cli.why import Decision, Event, Evidence, InitContainer, NamespaceOwner

T = TypeVar("T")
_LOG_LINES: Final = 20
_NONE: Final[tuple[Object, ...]] = ()
_WISHES: Final = (
    pod_annotations.INJECT,
    pod_annotations.INJECT_AGENT,
    pod_annotations.INSTALL_PATH,
    pod_annotations.FAILURE_POLICY,
)


def collect_evidence(client: Kubectl, namespace: str, name: str, *, now: float) -> Evidence:
    """Read the evidence about a pod, without a conclusion; `KubectlUnusableError` without access to the cluster."""
    return _Collector(client, namespace, name, now).collect()


class _Collector:
    """Gathers what is unreadable while it reads."""

    def __init__(self, client: Kubectl, namespace: str, name: str, now: float) -> None:
        self._client, self._namespace, self._name, self._now = client, namespace, name, now
        self._unread: list[str] = []

    def collect(self) -> Evidence:
        pod = self._read(lambda: self._client.get("pod", self._name, "-n", self._namespace), None)
        if pod is None:
            return Evidence(
                self._namespace, self._name, self._now, exists=False,
                owner=self._owner(), unread=tuple(self._unread),
            )  # fmt: skip
        by_driver = _by_driver(pod)
        driver, problem = self._driver(k8s_objects.node(pod)) if by_driver and k8s_objects.node(pod) else (None, "")
        answer = None
        if driver is not None:
            answer, problem = self._report(driver)
        webhook = self._read(
            lambda: self._client.get("deployment", snapshot.WEBHOOK, "-n", self._client.namespace), None
        )
        return Evidence(
            self._namespace,
            self._name,
            self._now,
            exists=True,
            phase=str(k8s_objects.status(pod).get("phase", "")),
            node=k8s_objects.node(pod),
            scheduling=str(k8s_objects.conditions(pod).get("PodScheduled", {}).get("message", "")),
            mirror=pod_annotations.MIRROR in k8s_objects.get_annotations(pod),
            decision=decision(pod),
            by_driver=by_driver,
            init=self._init(pod),
            troubles=tuple(f"{one.container}: {one.reason} {one.message}".strip() for one in k8s_objects.troubles(pod)),
            owner=self._owner(),
            webhook_ready=int(k8s_objects.status(webhook).get("readyReplicas", 0)) if webhook is not None else None,
            events=tuple(self._events(pod)),
            driver=k8s_objects.name(driver) if driver is not None else "",
            on_node=answer,
            node_problem=problem,
            unread=tuple(self._unread),
        )

    def _read(self, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except KubectlUnusableError:
            raise
        except KubectlError as error:
            self._unread.append(str(error))
            return otherwise

    def _owner(self) -> NamespaceOwner | None:
        namespace = self._read(lambda: self._client.get("namespace", self._namespace), None)
        if namespace is None:
            return None
        kubes = self._read(lambda: self._client.list_own(snapshot.DEFINITION), None)
        cluster = ClusterSnapshot(namespace=self._client.namespace, taken_at=self._now, dynakubes=kubes or ())
        wanted, wrong = dynakubes.claims(cluster)
        self._unread += map(str, wrong)
        owner = namespace_mapping.decide(self._namespace, k8s_objects.labels(namespace), wanted).owner
        return NamespaceOwner(
            label=k8s_objects.labels(namespace).get(namespace_mapping.LABEL, ""),
            owner=owner or "",
            selected_by=tuple(dynakubes.claimants(cluster, namespace)),
            dynakubes=len(kubes) if kubes is not None else None,
        )

    def _driver(self, node: str) -> tuple[Object | None, str]:
        """Return the driver's pod on a node, or the reason why it is unknown; neither if there is none."""
        chosen = (
            f"--selector={k8s_objects.COMPONENT}={node_reports.COMPONENT}",
            f"--field-selector=spec.nodeName={node}",
        )
        try:
            return node_reports.driver_pods(self._client.list_own("pods", *chosen)).get(node), ""
        except KubectlUnusableError:
            raise
        except KubectlError as error:
            return None, str(error)

    def _report(self, driver: Object) -> tuple[PodReport | None, str]:
        try:
            return node_reports.diagnose_pod(self._client, driver, f"{self._namespace}/{self._name}"), ""
        except KubectlError as error:
            return None, str(error)

    def _init(self, pod: Object) -> InitContainer | None:
        if contract.INIT_CONTAINER not in k8s_objects.containers(pod):
            return None
        status = k8s_objects.states(pod).get(contract.INIT_CONTAINER, {})
        state = status.get("state") or {}
        ended, waits = state.get("terminated"), state.get("waiting") or {}
        last = (status.get("lastState") or {}).get("terminated") or {}
        if ended is not None:
            word = "done" if ended.get("exitCode") == 0 else "failed"
            found = (word, ended.get("reason", ""), ended.get("message", ""))
        elif state.get("running") is not None:
            found = ("running", "", last.get("message", ""))
        else:
            found = ("waiting", waits.get("reason", ""), last.get("message") or waits.get("message", ""))
        word, reason, message = (str(text).strip() for text in found)
        log = self._log() if message or word in ("running", "failed") else ""
        return InitContainer(word, reason, message, log)

    def _log(self) -> str:
        arguments = ("logs", "-n", self._namespace, self._name, "-c", contract.INIT_CONTAINER, f"--tail={_LOG_LINES}")
        return self._read(lambda: self._client(*arguments), "").strip()

    def _events(self, pod: Object) -> Iterable[Event]:
        """Return own Events on the pod and its controller, which the webhook names; the newest last."""
        abouts = [
            self._name,
            *(one["name"] for one in pod["metadata"].get("ownerReferences") or () if one.get("controller")),
        ]
        for about in abouts:
            chosen = f"--field-selector=involvedObject.name={about}"
            found = self._read(partial(self._client.list_objects, "events", "-n", self._namespace, chosen), _NONE)
            for event in sorted(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime"))):
                source = (event.get("source") or {}).get("component") or event.get("reportingComponent") or ""
                if event.get("type") == "Warning" or source.startswith("oneagent"):
                    yield Event(about, str(event.get("reason", "")), str(event.get("message", "")))


def decision(pod: Object) -> Decision:
    annotations = k8s_objects.get_annotations(pod)
    asked = [key for key in annotations if key in _WISHES or key.startswith(pod_annotations.INJECT_CONTAINER)]
    return Decision(
        pod_annotations.switch(annotations, pod_annotations.AGENT_INJECTED),
        annotations.get(pod_annotations.REASON, ""),
        tuple(f'{key}: "{annotations[key]}"' for key in sorted(asked)),
    )


def _by_driver(pod: Object) -> bool:
    return any(
        (volume.get("csi") or {}).get("driver") == identifiers.DRIVER_NAME
        for volume in pod["spec"].get("volumes") or ()
    )
