"""DynaKube sources of a node: the API server (`api_server`) or a directory of files (`directory`).

A source is level-triggered: each report is the whole set as far as it is known, so a consumer that missed one loses
nothing. No report means "not known yet", which differs from a report without DynaKubes: before the first one nothing
may be removed from the node. Requests to a source raise `kubernetes.errors.ApiError`.

Nothing here imports a Kubernetes client; only `api_server` does, because memory is paid on every node.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

from oneagent.common import dynakube, identifiers
from oneagent.common.node_lease import NodeReport

Kind = Literal["Normal", "Warning"]

OPERATOR_WAIT_SECONDS: Final = 60.0
"""An operator marks a DynaKube within a second; after an upgrade it has to become the leader first."""


@dataclasses.dataclass(frozen=True, slots=True)
class PodReference:
    """The pod that an Event is about."""

    namespace: str
    name: str
    uid: str


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """All DynaKubes at one moment."""

    dynakubes: Mapping[identifiers.DynaKubeName, dynakube.DynaKube]
    invalid: Mapping[str, str]
    """Errors by DynaKube, or by `file:line` where the name is unknown. These DynaKubes exist, so their files stay on
    the node. A name in both: the last-good state holds until the error is fixed."""

    def newly_invalid(self, before: Snapshot | None) -> list[tuple[str, str]]:
        return sorted(self.invalid.items() - (before.invalid.items() if before else frozenset()))


class BothKinds:
    """One set of two watches, reported once both are known: before that nothing is known to be gone.

    Each method is for one thread.
    """

    def __init__(self, changed: Callable[[Snapshot], None]) -> None:
        self._changed = changed
        self._first: Snapshot | None = None
        self._second: Snapshot | None = None
        self._lock = threading.Lock()

    def set_first(self, snapshot: Snapshot) -> None:
        with self._lock:
            self._first = snapshot
            self._report()

    def set_second(self, snapshot: Snapshot) -> None:
        with self._lock:
            self._second = snapshot
            self._report()

    def _report(self) -> None:
        if self._first is None or self._second is None:
            return
        first, second = self._first, self._second
        self._changed(Snapshot({**first.dynakubes, **second.dynakubes}, {**first.invalid, **second.invalid}))


class DynaKubeSource(Protocol):
    operator_wait_seconds: float | None
    """Time that an operator may take to mark a DynaKube before the node asks its tenant; None where none can be."""

    def run(self, changed: Callable[[Snapshot], None], stop: threading.Event) -> None:
        """Call `changed` with the complete set, at start and after each change, until `stop` is set."""
        ...

    def secret(self, name: str) -> Mapping[str, str]:
        """Read a Secret of the DynaKubes' namespace, decoded; `ApiError`."""
        ...

    def config_map(self, name: str) -> Mapping[str, str]:
        """Read a ConfigMap of the DynaKubes' namespace; `ApiError`."""
        ...

    def event(
        self,
        about: dynakube.DynaKube | PodReference,
        kind: Kind,
        reason: str,
        message: str,
        related: PodReference | None = None,
    ) -> None:
        """Write an Event, at best effort: repeats are counted, and nothing is raised.

        About a DynaKube only what has to be counted by pods: all nodes would write the same.
        """
        ...

    def report(self, report: NodeReport) -> None:
        """Write the state of this node where the operator finds it; `ApiError`."""
        ...

    def silent_seconds(self) -> float:
        """Seconds since the source last answered; 0 for one that cannot be silent."""
        ...
