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
from typing import Literal, Protocol

from oneagent.common import dynakube, identifiers

Kind = Literal["Normal", "Warning"]


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


class DynaKubeSource(Protocol):
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
        """Write an Event, at best effort: repeats are counted, and nothing is raised."""
        ...

    def silent_seconds(self) -> float:
        """Seconds since the source last answered; 0 for one that cannot be silent."""
        ...
