"""Why a pod of the cluster has its agent, or has none: the shapes of what is found, and its form for programs.

`evidence` collects what the API server and the pod's node say, `verdicts` judges it, `texts` writes it for people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""


class Reason:
    """Verdicts of the cluster. The others are the webhook's (`common.skips`) and the node's, by their own names."""

    NO_POD: Final = "NoPod"
    NOT_SCHEDULED: Final = "NotScheduled"
    ENDED: Final = "Ended"
    WEBHOOK_NOT_ASKED: Final = "WebhookNotCalled"
    NO_DRIVER: Final = "NoDriver"
    NODE_NOT_ASKED: Final = "NodeUnreachable"
    NOT_PUBLISHED: Final = "NotPublished"
    NOT_STARTED: Final = "NotStarted"
    INSTALL_FAILED: Final = "InstallFailed"
    INSTALLING: Final = "Installing"
    INSTALLED: Final = "Installed"


GOOD: Final = frozenset({"Monitored", "HostFolder", Reason.INSTALLED})


@dataclass(frozen=True, slots=True)
class Decision:
    """What the webhook wrote on the pod. `injected` is None if it wrote nothing."""

    injected: bool | None
    reason: str
    asked: tuple[str, ...]
    """Annotations by which the pod asks for something, as `name: "value"`."""


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    """Whose the pod's namespace is: by its label, and by the DynaKubes as they are now."""

    label: str
    owner: str
    selected_by: tuple[str, ...]
    """DynaKubes whose selectors match it, also where it is ignored."""
    dynakubes: int | None
    """How many there are; None if they can't be read"""


@dataclass(frozen=True, slots=True)
class InitContainer:
    """`state` is waiting, running, done or failed; `message` what it left or kubelet says."""

    state: str
    reason: str
    message: str
    log: str


@dataclass(frozen=True, slots=True)
class Event:
    about: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is seen of a pod. What could not be read is in `unread`, and reads as empty."""

    namespace: str
    pod: str
    taken_at: float
    exists: bool
    phase: str = ""
    node: str = ""
    scheduling: str = ""
    """The scheduler's word, as long as the pod has no node"""
    mirror: bool = False
    decision: Decision = Decision(None, "", ())
    by_driver: bool = False
    """Whether it has a volume of the node driver"""
    init: InitContainer | None = None
    troubles: tuple[str, ...] = ()
    """Containers that can't start, each with the reason"""
    owner: NamespaceFacts | None = None
    webhook_ready: int | None = None
    """Pods of the webhook that are ready now; None if not known"""
    events: tuple[Event, ...] = ()
    driver: str = ""
    """The driver's pod on its node"""
    on_node: Mapping[str, Any] | None = None
    """What `oneagent-csi why` says there, in JSON"""
    node_problem: str = ""
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`remedy` is empty where nothing has to be done."""

    reason: str
    sentence: str
    remedy: str = ""


def as_json(found: Evidence, verdict: Verdict) -> dict[str, Any]:
    """The form for programs."""
    return {"format": JSON_FORMAT, "verdict": dataclasses.asdict(verdict)} | dataclasses.asdict(found)
