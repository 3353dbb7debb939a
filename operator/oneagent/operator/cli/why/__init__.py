"""Diagnosis of pods of the cluster, each from the API server and the pod's node.

`workload` finds the pods, `collect` gathers the evidence, `diagnose` draws the conclusion, `text` prints it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.common import agents, node_report
from oneagent.common.node_report import Diagnosis, PodReport

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""


class Reason:
    """Reasons of the cluster; those of the webhook (`injection.skip_reasons`) and of the node keep their names."""

    NO_POD: Final = "NoPod"
    UNREADABLE: Final = "Unreadable"
    TERMINATING: Final = "Terminating"
    NOT_SCHEDULED: Final = "NotScheduled"
    ENDED: Final = "Ended"
    WEBHOOK_NOT_CALLED: Final = "WebhookNotCalled"
    NOT_INSTALLED: Final = "NotInstalled"
    NO_DRIVER: Final = "NoDriver"
    NODE_UNREACHABLE: Final = "NodeUnreachable"
    NOT_PUBLISHED: Final = "NotPublished"
    NOT_STARTED: Final = "NotStarted"
    INSTALL_FAILED: Final = "InstallFailed"
    INSTALLING: Final = "Installing"
    INSTALLED: Final = "Installed"


AS_INTENDED: Final = frozenset({"Monitored", "HostDirectory", "FilesOnly", Reason.INSTALLED})
"""Diagnoses that need no remedy: exit code 0."""
UNKNOWN: Final = frozenset({"Unknown", "ProcessesNotSeen", Reason.NODE_UNREACHABLE, Reason.UNREADABLE})
"""Diagnoses that leave open if the pod has its agent: exit code 3."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The webhook's annotations on the pod. `injected` is None if it wrote none."""

    injected: bool | None
    reason: str
    annotations: tuple[str, ...]
    """The user's annotations that request or refuse injection, as `name: "value"`."""


@dataclass(frozen=True, slots=True)
class NamespaceOwner:
    """DynaKube that owns the pod's namespace: by its label, and by the current selectors."""

    label: str
    owner: str
    selected_by: tuple[str, ...]
    """DynaKubes whose selectors match it, even where it is ignored"""
    dynakubes: int | None
    """Their number; None if they are unreadable"""
    selectors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By DynaKube: its selector in kubectl's form"""


@dataclass(frozen=True, slots=True)
class InitContainer:
    """`state` is waiting, running, done or failed; `message` is its own or kubelet's."""

    state: str
    reason: str
    message: str
    log: str


@dataclass(frozen=True, slots=True)
class Event:
    """`count` Events that differ in numbers only, with the newest message."""

    about: str
    reason: str
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence about a pod. Unreadable parts are listed in `unread`, and read as empty."""

    namespace: str
    pod: str
    taken_at: float
    exists: bool
    phase: str = ""
    is_deleting: bool = False
    node: str = ""
    scheduling: str = ""
    """Message of the scheduler while the pod has no node"""
    mirror: bool = False
    decision: Decision = Decision(None, "", ())
    by_driver: bool = False
    """It has a volume of the node driver"""
    init: InitContainer | None = None
    container_problems: tuple[str, ...] = ()
    """Containers that can't start, each with the reason"""
    owner: NamespaceOwner | None = None
    webhook_ready: int | None = None
    """Ready pods of the webhook; None if unknown"""
    webhook_absent_from: str = ""
    """Namespace of the installation, if it has no webhook"""
    events: tuple[Event, ...] = ()
    driver: str = ""
    """The driver's pod on its node"""
    on_node: PodReport | None = None
    """Report of `oneagent-csi why` there"""
    on_node_json: Mapping[str, Any] | None = None
    """The same in JSON, with the fields that only a newer driver has"""
    node_problem: str = ""
    unread: tuple[str, ...] = ()


def to_json(evidence: Evidence, diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the JSON form, with the node's report as the node sent it."""
    fields = dataclasses.asdict(evidence)
    on_node = fields.pop("on_node_json")
    if (owner := evidence.owner) is not None and (name := owner.owner or owner.label):
        fields["owner"]["object"] = agents.object_path(name)
    fields |= node_report.with_times({"taken_at": evidence.taken_at})
    return {"format": JSON_FORMAT, "verdict": dataclasses.asdict(diagnosis)} | fields | {"on_node": on_node}
