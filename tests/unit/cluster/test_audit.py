"""What of the API server's audit log is a call, and how it ended."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster import audit
from tests.cluster.audit import Call, Outcome

USER: Final = "system:serviceaccount:dynatrace:oneagent-operator"
_numbers = itertools.count(1)


def event(verb: str = "get", code: int = 200, **changed: Any) -> dict[str, Any]:
    """The line of a call that is about a Secret."""
    return {
        "auditID": str(next(_numbers)),
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/dynatrace/secrets/tokens?timeout=5s",
        "verb": verb,
        "user": {"username": USER, "groups": ["system:serviceaccounts:dynatrace"]},
        "userAgent": "OpenAPI-Generator/1",
        "objectRef": {"resource": "secrets", "namespace": "dynatrace", "name": "tokens", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": code},
        "annotations": {"authorization.k8s.io/decision": "allow"},
        **changed,
    }


def calls(*events: dict[str, Any]) -> list[Call]:
    return list(audit.calls(map(json.dumps, events), "dynatrace"))


def test_a_call_is_what_it_was_about() -> None:
    assert calls(event()) == [Call(USER, "get", "", "secrets", "dynatrace", "tokens")]


def test_a_subresource_is_a_resource_of_its_own() -> None:
    about = {"resource": "dynakubes", "subresource": "status", "apiGroup": "dynatrace.com", "name": "shop"}
    assert calls(event("patch", objectRef=about)) == [
        Call(USER, "patch", "dynatrace.com", "dynakubes/status", "", "shop")
    ]


def test_what_is_no_resource_is_a_path() -> None:
    made = event(requestURI="/apis/dynatrace.com?timeout=5s")
    del made["objectRef"]
    assert calls(made) == [Call(USER, "get", "", "/apis/dynatrace.com", "", "")]


@pytest.mark.parametrize(
    "user", ["admin", "system:serviceaccount:dynatrace-2:oneagent-operator", "system:node:node-1", "dynatrace"]
)
def test_others_do_not_count(user: str) -> None:
    assert not calls(event(user={"username": user}))


def test_a_test_that_uses_the_token_by_hand_does_not_count() -> None:
    assert not calls(event(userAgent="kubectl/v1.34.1 (linux/amd64) kubernetes/93248f9"))


def test_start_and_end_of_an_answer_are_one_call() -> None:
    watch = event("watch", stage="ResponseStarted")
    assert len(calls(watch, {**watch, "stage": "ResponseComplete"}, event("watch"))) == 2


def test_an_object_that_is_applied_and_was_not_there_is_created_as_well() -> None:
    assert [call.verb for call in calls(event("patch", 201))] == ["patch", "create"]
    assert [call.verb for call in calls(event("patch", 200))] == ["patch"]
    assert [call.verb for call in calls(event("create", 201))] == ["create"]


def outcome(made: dict[str, Any]) -> Outcome:
    (call,) = calls(made)
    return call.outcome


def test_what_no_role_allows_is_forbidden() -> None:
    assert outcome(event(code=403, annotations={"authorization.k8s.io/decision": "forbid"})) is Outcome.FORBIDDEN


def test_what_a_role_allows_and_something_else_does_not_is_incomplete() -> None:
    assert outcome(event("patch", 403)) is Outcome.INCOMPLETE


def test_a_namespace_that_is_on_its_way_out_has_nothing_to_do_with_rights() -> None:
    causes = [{"reason": "NamespaceTerminating", "message": "namespace shop is being terminated"}]
    status = {"code": 403, "reason": "Forbidden", "details": {"causes": causes}}
    assert outcome(event("create", responseStatus=status)) is Outcome.DONE


@pytest.mark.parametrize("code", [404, 409, 422, 500])
def test_what_goes_wrong_otherwise_was_allowed(code: int) -> None:
    assert outcome(event(code=code)) is Outcome.DONE


def test_a_log_that_grew_too_long_is_read_from_its_beginning(tmp_path: Path) -> None:
    for name in ("audit-2026-10-01T12-00-00.000.log", "audit-2026-10-01T13-00-00.000.log", "audit.log", "etcd.log"):
        (tmp_path / name).write_text(f"{name}\n")
    found = [line[:24].rstrip() for line in audit.lines(tmp_path / "audit.log")]
    assert found == ["audit-2026-10-01T12-00-0", "audit-2026-10-01T13-00-0", "audit.log"]
