"""Which grants calls have needed, and which calls have lacked one."""

from __future__ import annotations

from typing import Any, Final

import pytest
import yaml

from tests.cluster import rbac
from tests.cluster.audit import Call, Outcome
from tests.cluster.rbac import Grant

USER: Final = "system:serviceaccount:home:worker"


def bound(rules: str, kind: str = "Role", binding: str = "RoleBinding") -> list[dict[str, Any]]:
    """A role with these rules, and its binding."""
    metadata: dict[str, Any] = {"name": "work"}
    role = {"kind": kind, "metadata": dict(metadata), "rules": yaml.safe_load(rules)}
    if kind == "Role":
        role["metadata"]["namespace"] = "home"
    if binding == "RoleBinding":
        metadata["namespace"] = "home"
    subject = {"kind": "ServiceAccount", "name": "worker", "namespace": "home"}
    reference = {"kind": kind, "name": "work"}
    return [role, {"kind": binding, "metadata": metadata, "roleRef": reference, "subjects": [subject]}]


def everywhere(rules: str) -> list[dict[str, Any]]:
    return bound(rules, "ClusterRole", "ClusterRoleBinding")


def call(verb: str, namespace: str = "home", name: str = "", outcome: Outcome = Outcome.DONE) -> Call:
    return Call(USER, verb, "", "secrets", namespace, name, outcome)


SECRETS: Final = "- {apiGroups: [''], resources: [secrets], verbs: [get, patch]}"


class TestGrants:
    def test_are_the_verbs_of_every_rule_for_every_resource_and_name(self) -> None:
        rules = "- {apiGroups: [apps], resources: [a, b/status], resourceNames: [x, y], verbs: [get, patch]}"
        found = rbac.granted(bound(rules))
        assert len(found) == 8
        assert Grant(USER, "Role work", "home", "apps", "b/status", "y", "patch") in found

    def test_of_a_cluster_role_are_for_where_it_is_bound(self) -> None:
        rules = "- {apiGroups: [''], resources: [secrets], verbs: [get]}"
        (here,) = rbac.granted(bound(rules, "ClusterRole"))
        (anywhere,) = rbac.granted(everywhere(rules))
        assert (here.namespace, anywhere.namespace) == ("home", "")

    def test_may_be_about_paths(self) -> None:
        (grant,) = rbac.granted(everywhere("- {nonResourceURLs: [/metrics], verbs: [get]}"))
        assert not rbac.unused([grant], [Call(USER, "get", "", "/metrics", "", "")])

    def test_of_a_role_that_is_bound_to_nobody_are_none(self) -> None:
        assert not rbac.granted(bound(SECRETS)[:1])

    @pytest.mark.parametrize(
        "rule",
        [
            "{apiGroups: [''], resources: [secrets], verbs: ['*']}",
            "{apiGroups: ['*'], resources: [secrets], verbs: [get]}",
            "{apiGroups: [''], resources: ['*/status'], verbs: [get]}",
            "{nonResourceURLs: ['/metrics/*'], verbs: [get]}",
        ],
    )
    def test_can_not_be_proven_with_a_wildcard(self, rule: str) -> None:
        with pytest.raises(ValueError, match="name what is meant"):
            rbac.granted(bound(f"- {rule}"))

    def test_are_for_service_accounts_only(self) -> None:
        role, binding = bound(SECRETS)
        binding["subjects"] = [{"kind": "Group", "name": "system:authenticated"}]
        with pytest.raises(ValueError, match="Group system:authenticated: name service accounts"):
            rbac.granted([role, binding])

    def test_of_a_role_without_rules_are_none(self) -> None:
        role, binding = bound("[]")
        del role["rules"]
        assert not rbac.granted([role, binding])

    def test_say_what_they_are(self) -> None:
        rules = "- {apiGroups: [apps], resources: [daemonsets], resourceNames: [x], verbs: [get]}"
        (grant,) = rbac.granted(bound(rules))
        assert str(grant) == "home:worker by Role work: get daemonsets.apps x in home"


class TestUnused:
    def test_is_what_no_call_needed(self) -> None:
        assert [one.verb for one in rbac.unused(rbac.granted(bound(SECRETS)), [call("get")])] == ["patch"]

    @pytest.mark.parametrize(
        "other",
        [
            call("patch", namespace="elsewhere"),
            call("patch", outcome=Outcome.FORBIDDEN),
            call("patch", outcome=Outcome.INCOMPLETE),
            Call("system:serviceaccount:home:other", "patch", "", "secrets", "home", ""),
            Call(USER, "patch", "apps", "secrets", "home", ""),
            Call(USER, "patch", "", "secrets/status", "home", ""),
        ],
        ids=str,
    )
    def test_is_not_what_only_another_call_was_like(self, other: Call) -> None:
        assert [one.verb for one in rbac.unused(rbac.granted(bound(SECRETS)), [call("get"), other])] == ["patch"]

    def test_is_a_right_to_a_name_if_only_another_name_was_used(self) -> None:
        rules = "- {apiGroups: [''], resources: [secrets], resourceNames: [a, b], verbs: [get]}"
        assert [one.name for one in rbac.unused(rbac.granted(bound(rules)), [call("get", name="a")])] == ["b"]

    def test_is_a_right_to_all_if_that_to_a_name_would_have_done(self) -> None:
        rules = f"{SECRETS}\n- {{apiGroups: [''], resources: [secrets], resourceNames: [a], verbs: [patch]}}"
        calls = [call("get"), call("patch", name="a")]
        (left,) = rbac.unused(rbac.granted(bound(rules)), calls)
        assert (left.verb, left.name) == ("patch", "")

    def test_is_a_right_everywhere_if_it_was_used_at_home_only(self) -> None:
        grants = rbac.granted(everywhere(SECRETS))
        assert len(rbac.unused(grants, [call("get"), call("patch")])) == 2
        assert not rbac.unused(grants, [call("get", "elsewhere"), call("patch", "")])


class TestLacking:
    def test_is_what_no_role_allows(self) -> None:
        wanted = call("delete", outcome=Outcome.FORBIDDEN)
        assert rbac.lacking(rbac.granted(bound(SECRETS)), [wanted, wanted, call("get")]) == [wanted]

    def test_is_not_what_was_refused_while_the_roles_were_not_there(self) -> None:
        assert not rbac.lacking(rbac.granted(bound(SECRETS)), [call("get", outcome=Outcome.FORBIDDEN)])

    def test_is_what_a_call_takes_besides_the_right_to_make_it(self) -> None:
        wanted = call("patch", outcome=Outcome.INCOMPLETE)
        assert rbac.lacking(rbac.granted(bound(SECRETS)), [wanted]) == [wanted]
