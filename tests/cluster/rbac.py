"""What roles grant to service accounts, and what of it their calls have needed.

Every verb of every rule is a grant of its own, for one kind of object and, where the rule says so, one name. Of the
grants that allow a call it proves only the narrowest: who changes objects of his own namespace needs no right to
change them everywhere, though that would do as well.

Not everything that RBAC can say is understood, only what proofs can be made for: a wildcard, or a role for somebody
who is no service account, is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.cluster.audit import Call, Outcome

_PREFIX: Final = "system:serviceaccount:"


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    user: str
    role: str
    namespace: str
    """Empty: everywhere."""
    group: str
    resource: str
    """With its subresource, as `pods/status`; or a path that is no resource, as `/metrics`."""
    name: str
    """Empty: whatever it is called."""
    verb: str

    @property
    def width(self) -> tuple[bool, bool]:
        """Of two the narrower one is the smaller."""
        return not self.namespace, not self.name

    def allows(self, call: Call) -> bool:
        return (
            (self.user, self.group, self.resource, self.verb) == (call.user, call.group, call.resource, call.verb)
            and self.namespace in ("", call.namespace)
            and self.name in ("", call.name)
        )

    def is_proven_by(self, call: Call) -> bool:
        """Whether the call needed this one, and not only a narrower one in its place."""
        at_home = call.namespace == self.user.split(":")[2]
        return self.allows(call) and (bool(self.namespace) or not at_home)

    def __str__(self) -> str:
        what = f"{self.verb} {self.resource}{'.' if self.group else ''}{self.group}"
        name, where = f" {self.name}" if self.name else "", self.namespace or "every namespace"
        return f"{self.user.removeprefix(_PREFIX)} by {self.role}: {what}{name} in {where}"


def granted(manifests: Iterable[Mapping[str, Any]]) -> frozenset[Grant]:
    """What the roles among the manifests grant to those whom the bindings among them name."""
    kept = list(manifests)
    roles = {_key(one["kind"], one): one for one in kept if one["kind"] in ("Role", "ClusterRole")}
    found = set[Grant]()
    for binding in kept:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
        namespace = binding["metadata"].get("namespace", "")
        role = roles[kind, namespace if kind == "Role" else "", name]
        for subject in binding["subjects"]:
            if subject["kind"] != "ServiceAccount":
                raise ValueError(f"{kind} {name} is for the {subject['kind']} {subject['name']}: name service accounts")
            user = f"{_PREFIX}{subject['namespace']}:{subject['name']}"
            found |= {
                Grant(user, f"{kind} {name}", namespace, *right)
                for rule in role.get("rules", ())
                for right in _rights(rule)
            }
    return frozenset(found)


def unused(grants: Collection[Grant], calls: Iterable[Call]) -> list[Grant]:
    """The grants that no call needed."""
    left = set(grants)
    for call in set(calls):
        if call.outcome is Outcome.DONE:
            left -= _narrowest(grant for grant in grants if grant.is_proven_by(call))
    return sorted(left)


def lacking(grants: Collection[Grant], calls: Iterable[Call]) -> list[Call]:
    """The calls that were refused for want of a right.

    One for which the roles do have a grant was made while they were not there: just before they were installed, or
    just after they were deleted.
    """
    refused = {call for call in calls if call.outcome is not Outcome.DONE}
    excused = {call for call in refused if call.outcome is Outcome.FORBIDDEN and any(g.allows(call) for g in grants)}
    return sorted(refused - excused, key=str)


def _narrowest(grants: Iterable[Grant]) -> set[Grant]:
    found = list(grants)
    least = min((grant.width for grant in found), default=None)
    return {grant for grant in found if grant.width == least}


def _rights(rule: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Group, resource, name and verb."""
    if any("*" in word for words in rule.values() for word in words):
        raise ValueError(f"a wildcard in the rule {dict(rule)}: name what is meant, so that it can be proven")
    for verb in rule["verbs"]:
        yield from (("", path, "", verb) for path in rule.get("nonResourceURLs", ()))
        for group in rule.get("apiGroups", ()):
            for resource in rule["resources"]:
                yield from ((group, resource, name, verb) for name in rule.get("resourceNames", [""]))


def _key(kind: str, manifest: Mapping[str, Any]) -> tuple[str, str, str]:
    return kind, manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]
