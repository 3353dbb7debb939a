"""What service accounts have asked of the API server, by its audit log.

The log has a line for the start and one for the end of an answer, if the two are apart: those of a watch that goes
on has only the first.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

_DECISION: Final = "authorization.k8s.io/decision"
_BY_HAND: Final = "kubectl/"


class Outcome(enum.Enum):
    DONE = "done"
    """As far as rights go: what was asked for may not exist, or not be what the API server takes."""
    FORBIDDEN = "forbidden"
    """No role allows the call."""
    INCOMPLETE = "incomplete"
    """A role allows the call, and none a thing that it takes besides; or it is against a policy of the cluster."""


@dataclass(frozen=True, slots=True)
class Call:
    user: str
    verb: str
    group: str
    resource: str
    """With its subresource; a path if it is no resource."""
    namespace: str
    name: str
    outcome: Outcome = Outcome.DONE

    def __str__(self) -> str:
        what = f"{self.verb} {self.resource}{'.' if self.group else ''}{self.group} {self.namespace}/{self.name}"
        return f"{self.user}: {what}: {self.outcome.value}"


def lines(log: Path) -> Iterator[str]:
    """All of them: what was in the log when it grew too long is in files beside it, older ones first."""
    for path in (*sorted(log.parent.glob(f"{log.stem}-*{log.suffix}")), log):
        with path.open() as opened:
            yield from opened


def calls(lines: Iterable[str], namespace: str) -> Iterator[Call]:
    """Those of the namespace's service accounts, but for what somebody tried in their name with kubectl."""
    seen = set[str]()
    for line in lines:
        event = json.loads(line)
        ours = event["user"]["username"].startswith(f"system:serviceaccount:{namespace}:")
        if ours and not event.get("userAgent", "").startswith(_BY_HAND) and event["auditID"] not in seen:
            seen.add(event["auditID"])
            yield from _calls(event)


def _calls(event: Mapping[str, Any]) -> Iterator[Call]:
    where = event.get("objectRef", {})
    subresource = f"/{where['subresource']}" if "subresource" in where else ""
    call = Call(
        user=event["user"]["username"],
        verb=event["verb"],
        group=where.get("apiGroup", ""),
        resource=f"{where['resource']}{subresource}" if where else event["requestURI"].partition("?")[0],
        namespace=where.get("namespace", ""),
        name=where.get("name", ""),
        outcome=_outcome(event),
    )
    yield call
    # The API server asks for both rights when an object is applied that is not there yet.
    if (call.verb, event["responseStatus"]["code"]) == ("patch", 201):
        yield replace(call, verb="create")


def _outcome(event: Mapping[str, Any]) -> Outcome:
    status = event["responseStatus"]
    if event.get("annotations", {}).get(_DECISION) == "forbid":
        return Outcome.FORBIDDEN
    causes = {cause.get("reason") for cause in status.get("details", {}).get("causes", ())}
    if status["code"] == 403 and "NamespaceTerminating" not in causes:
        return Outcome.INCOMPLETE
    return Outcome.DONE
