"""Evidence about one pod, from the API server and from `oneagent-csi why` on its node.

Always returns something: unreadable parts are listed, the others are still read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, TypeVar

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.injection import contract, pod_annotations
from oneagent.operator.cli import k8s_objects, node_reports, snapshot
from oneagent.operator.cli.doctor import dynakubes
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, KubectlUnusableError, Object
from oneagent.operator.cli.node_reports import NodeDiagnosis
from oneagent.operator.cli.snapshot import ClusterSnapshot
from oneagent.operator.cli.why import Decision, Event, Evidence, InitContainer, NamespaceOwner

T = TypeVar("T")
_LOG_LINES: Final = 20
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}|\d+")
_NONE: Final[tuple[Object, ...]] = ()
_ABSENT: Final[Object] = {}
"""In the place of an object that does not exist, which is no reading error."""
_REQUEST_ANNOTATIONS: Final = (
    pod_annotations.INJECT,
    pod_annotations.INJECT_AGENT,
    pod_annotations.INSTALL_PATH,
    pod_annotations.FAILURE_POLICY,
)


def collect_evidence(client: Kubectl, namespace: str, name: str, *, now: float) -> Evidence:
    """Read the evidence about a pod, without a conclusion; `KubectlUnusableError` without access to the cluster."""
    return _Collector(client, namespace, name, now).collect()


class _Collector:
    """Collects the evidence, and the parts that are unreadable."""

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
        by_driver = k8s_objects.has_driver_volume(pod)
        # Also without a volume: its processes may have the agent by other means.
        driver, problem = self._driver(k8s_objects.node(pod)) if k8s_objects.node(pod) else (None, "")
        on_node: NodeDiagnosis | None = None
        if driver is not None:
            on_node, problem = self._diagnose_on_node(driver, str(pod["metadata"].get("uid") or ""))
        if not by_driver:
            problem = ""
        webhook = self._read(
            lambda: self._client.get("deployment", snapshot.WEBHOOK, "-n", self._client.namespace) or _ABSENT, None
        )
        return Evidence(
            self._namespace,
            self._name,
            self._now,
            exists=True,
            phase=str(k8s_objects.status(pod).get("phase", "")),
            is_deleting=k8s_objects.is_deleting(pod),
            node=k8s_objects.node(pod),
            scheduling=str(k8s_objects.conditions(pod).get("PodScheduled", {}).get("message", "")),
            mirror=pod_annotations.MIRROR in k8s_objects.get_annotations(pod),
            decision=read_decision(pod),
            by_driver=by_driver,
            init=self._init(pod),
            container_problems=tuple(
                f"{problem.container}: {problem.reason} {problem.message}".strip()
                for problem in k8s_objects.container_problems(pod)
            ),
            owner=self._owner(),
            webhook_ready=int(k8s_objects.status(webhook).get("readyReplicas", 0)) if webhook else None,
            webhook_absent_from=self._client.namespace if webhook is _ABSENT else "",
            events=tuple(self._events(pod)),
            driver=k8s_objects.name(driver) if driver is not None else "",
            on_node=on_node.report if on_node is not None else None,
            on_node_json=on_node.json if on_node is not None else None,
            node_problem=problem,
            unread=tuple(self._unread),
        )

    def _read(self, read: Callable[[], T], default: T) -> T:
        try:
            return read()
        except KubectlUnusableError:
            raise
        except KubectlError as error:
            self._unread.append(str(error))
            return default

    def _owner(self) -> NamespaceOwner | None:
        namespace = self._read(lambda: self._client.get("namespace", self._namespace), None)
        if namespace is None:
            return None
        kubes = self._read(lambda: snapshot.read_dynakubes(self._client), None)
        cluster = ClusterSnapshot(namespace=self._client.namespace, taken_at=self._now, dynakubes=kubes or ())
        claims, invalid = dynakubes.read_claims(cluster)
        self._unread += map(str, invalid)
        owner = namespace_mapping.decide(self._namespace, k8s_objects.labels(namespace), claims).owner
        return NamespaceOwner(
            label=k8s_objects.labels(namespace).get(namespace_mapping.LABEL, ""),
            owner=owner or "",
            selected_by=tuple(dynakubes.list_claimants(cluster, namespace)),
            dynakubes=len(kubes) if kubes is not None else None,
            selectors={
                claim.dynakube: " or ".join(dict.fromkeys(map(str, claim.selectors)))
                for claim in claims
                if claim.selectors
            },
        )

    def _driver(self, node: str) -> tuple[Object | None, str]:
        """Return the driver's pod on a node, or the reason why it is unknown; neither if there is none."""
        selectors = (
            f"--selector={k8s_objects.COMPONENT}={node_reports.COMPONENT}",
            f"--field-selector=spec.nodeName={node}",
        )
        try:
            return node_reports.driver_pods(self._client.list_own("pods", *selectors)).get(node), ""
        except KubectlUnusableError:
            raise
        except KubectlError as error:
            return None, str(error)

    def _diagnose_on_node(self, driver: Object, uid: str) -> tuple[NodeDiagnosis | None, str]:
        try:
            return node_reports.diagnose_pod(self._client, driver, f"{self._namespace}/{self._name}", uid), ""
        except KubectlError as error:
            return None, str(error)

    def _init(self, pod: Object) -> InitContainer | None:
        if contract.INIT_CONTAINER not in k8s_objects.containers(pod):
            return None
        status = k8s_objects.container_statuses(pod).get(contract.INIT_CONTAINER, {})
        state = status.get("state") or {}
        ended, waits = state.get("terminated"), state.get("waiting") or {}
        last = (status.get("lastState") or {}).get("terminated") or {}
        if ended is not None:
            word = "done" if ended.get("exitCode") == 0 else "failed"
            details = (word, ended.get("reason", ""), ended.get("message", ""))
        elif state.get("running") is not None:
            details = ("running", "", last.get("message", ""))
        else:
            details = ("waiting", waits.get("reason", ""), last.get("message") or waits.get("message", ""))
        word, reason, message = (str(text).strip() for text in details)
        log = self._log() if message or word in ("running", "failed") else ""
        return InitContainer(word, reason, message, log)

    def _log(self) -> str:
        arguments = ("logs", "-n", self._namespace, self._name, "-c", contract.INIT_CONTAINER, f"--tail={_LOG_LINES}")
        return self._read(lambda: self._client(*arguments), "").strip()

    def _events(self, pod: Object) -> Iterable[Event]:
        """Return own Events on the pod and its controller, which the webhook names; the newest last."""
        owners = pod["metadata"].get("ownerReferences") or ()
        names = [self._name, *(owner["name"] for owner in owners if owner.get("controller"))]
        for name in names:
            selector = f"--field-selector=involvedObject.name={name}"
            events = self._read(partial(self._client.list_objects, "events", "-n", self._namespace, selector), _NONE)
            found: dict[tuple[str, str], Event] = {}
            for event in sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime"))):
                source = (event.get("source") or {}).get("component") or event.get("reportingComponent") or ""
                if event.get("type") == "Warning" or source.startswith("oneagent"):
                    reason, message = str(event.get("reason", "")), str(event.get("message", ""))
                    # Kubelet's Events about one cause differ in addresses, attempts and times.
                    key = reason, _NUMBERS.sub("#", message)
                    before = found.pop(key, None)
                    count = int(event.get("count") or 1) + (before.count if before else 0)
                    found[key] = Event(name, reason, message, count)
            yield from found.values()


def read_decision(pod: Object) -> Decision:
    annotations = k8s_objects.get_annotations(pod)
    requests = {
        key: value
        for key, value in annotations.items()
        if key in _REQUEST_ANNOTATIONS or key.startswith(pod_annotations.INJECT_CONTAINER)
    }
    return Decision(
        pod_annotations.switch(annotations, pod_annotations.AGENT_INJECTED),
        annotations.get(pod_annotations.REASON, ""),
        tuple(f'{key}: "{value}"' for key, value in sorted(requests.items())),
    )
