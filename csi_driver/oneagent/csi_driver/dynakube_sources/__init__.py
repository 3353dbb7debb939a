"""Where a node learns of DynaKubes: from the API server (`kubernetes`) or from a folder of files (`folder`).

    SourceError
    ├── NotFoundError      there is no such object
    ├── ForbiddenError     there may be, but this process is not allowed to see it
    └── UnavailableError   cannot be told now; ask again later (`retry_after`: what the other side asked for)

A source is level-triggered: each report is the whole truth as far as it is known, so a consumer that missed
one loses nothing. No report means "not known yet", which is not the same as a report without DynaKubes:
before the first one nothing may be removed from the node.

Nothing here imports a Kubernetes client; only `kubernetes` does, because memory is paid on every node.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from oneagent.common import dynakube, identifiers

Kind = Literal["Normal", "Warning"]


class SourceError(Exception):
    """Something could not be learned or said."""


class NotFoundError(SourceError):
    pass


class ForbiddenError(SourceError):
    pass


class UnavailableError(SourceError):
    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


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
    """Why something could not be used: by DynaKube, or by `file:line` where no name can be told. These exist,
    so what is on the node for them stays. A name in both: the last good state holds until this is mended."""

    def newly_invalid(self, before: Snapshot | None) -> list[tuple[str, str]]:
        return sorted(self.invalid.items() - (before.invalid.items() if before else frozenset()))


class DynaKubeSource(Protocol):
    def run(self, changed: Callable[[Snapshot], None], stop: threading.Event) -> None:
        """Call `changed` with the complete set, at start and after each change, until `stop` is set."""
        ...

    def secret(self, name: str) -> Mapping[str, str]:
        """A secret of the DynaKubes' namespace, decoded; `SourceError` if it cannot be had."""
        ...

    def config_map(self, name: str) -> Mapping[str, str]:
        """A ConfigMap of the DynaKubes' namespace; `SourceError` if it cannot be had."""
        ...

    def event(self, about: dynakube.DynaKube | PodReference, kind: Kind, reason: str, message: str) -> None:
        """Tell the cluster, at best effort: repeats are counted, not repeated, and nothing is raised."""
        ...

    def alive(self) -> bool:
        """Whether `run` still turns. An API server that is away does not count: no restart would mend it."""
        ...
