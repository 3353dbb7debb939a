"""DynaKubes: what the operator says of them, their tokens, whose the namespaces are, and what was left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from oneagent.common.dynakube import namespace_mapping
from oneagent.common.kubernetes.fields import FieldError
from oneagent.operator.cli import k8s_objects
from oneagent.operator.cli.doctor import Finding, error, note, warning
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.snapshot import ClusterSnapshot

TOKEN_KEY: Final = "apiToken"  # noqa: S105
_OTHER_KEY: Final = "paasToken"
PATIENCE_SECONDS: Final = 300.0
"""What is on its way for longer than this is worth a look."""
_SUMMARY: Final = "Ready"


def conditions(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """The operator's own sentences, which have their remedies; tenants that can't be reached are among them."""
    name = "DynaKubes"
    if not cluster.dynakubes:
        yield note(name, f"there is no DynaKube in the namespace {cluster.namespace}")
    for kube in cluster.dynakubes:
        shown, found = f"DynaKube {k8s_objects.name(kube)}", k8s_objects.conditions(kube)
        if not found:
            yield warning(name, f"the operator has not looked at {shown} yet", "see whether the operator runs")
        for kind, condition in found.items():
            if kind == _SUMMARY:
                continue
            since = k8s_objects.age_seconds(condition.get("lastTransitionTime"), cluster.taken_at)
            said = f"{shown}: {kind}: {condition.get('message', '')}"
            if condition.get("status") == "False":
                yield error(name, said, f"kubectl -n {cluster.namespace} describe dynakube {k8s_objects.name(kube)}")
            elif condition.get("status") != "True" and since > PATIENCE_SECONDS:
                yield warning(name, f"{said} (for {since / 60:.0f} min)", "the operator's log says what it waits for")
            elif condition.get("status") != "True":
                yield note(name, said)


def tokens(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Only whether the Secret and its key are there; whether the tenant takes the token is in a condition."""
    name = "Tokens"
    for kube in cluster.dynakubes:
        spec = kube.get("spec") or {}
        if not spec.get("apiUrl"):
            continue
        secret = spec.get("tokens") or k8s_objects.name(kube)
        create = f"kubectl -n {cluster.namespace} create secret generic {secret} --from-literal={TOKEN_KEY}=TOKEN"
        who = f"the Secret {secret} of DynaKube {k8s_objects.name(kube)}"
        if secret not in cluster.secrets:
            yield error(name, f"{who} is not there: no version can be fetched", create)
        elif not cluster.secrets[secret] & {TOKEN_KEY, _OTHER_KEY}:
            yield error(
                name, f"{who} has no key {TOKEN_KEY}: no version can be fetched", f"delete the Secret, and {create}"
            )


def claims(cluster: ClusterSnapshot) -> tuple[list[namespace_mapping.Claim], list[FieldError]]:
    """What DynaKubes say of namespaces; and what of it can't be understood."""
    found, wrong = [], []
    for kube in cluster.dynakubes:
        if k8s_objects.is_deleting(kube):
            continue
        try:
            found.append(namespace_mapping.claim(kube, cluster.namespace))
        except FieldError as problem:
            wrong.append(problem)
    return found, wrong


def namespaces(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name = "Namespaces"
    wanted, wrong = claims(cluster)
    yield from (error(name, f"a selector of a DynaKube can't be used: {one}", "correct that field") for one in wrong)
    if wrong:
        return
    for namespace in cluster.namespaces:
        if k8s_objects.is_deleting(namespace):
            continue
        shown, has = k8s_objects.name(namespace), k8s_objects.labels(namespace).get(namespace_mapping.LABEL)
        owner = namespace_mapping.decide(shown, k8s_objects.labels(namespace), wanted).owner
        if owner != has and owner is not None:
            yield error(
                name, f"namespace {shown} belongs to DynaKube {owner}, and its label {namespace_mapping.LABEL} says "
                f"{has or 'nothing'}: its pods get no agent, or another one's", _labelled(owner),
            )  # fmt: skip


def leftovers(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """What should have gone with a DynaKube."""
    name = "Leftovers"
    wanted, wrong = claims(cluster)
    known = {k8s_objects.name(kube) for kube in cluster.dynakubes}
    staying = [namespace for namespace in cluster.namespaces if not k8s_objects.is_deleting(namespace)]
    labels = {k8s_objects.name(one): k8s_objects.labels(one).get(namespace_mapping.LABEL) for one in staying}
    for namespace in staying:
        shown, has = k8s_objects.name(namespace), k8s_objects.labels(namespace).get(namespace_mapping.LABEL)
        if not has or wrong or namespace_mapping.decide(shown, k8s_objects.labels(namespace), wanted).owner is not None:
            continue
        why = "no DynaKube selects it any more" if has in known else f"there is no DynaKube {has}"
        yield warning(
            name, f"namespace {shown} has the label {namespace_mapping.LABEL}={has}, but {why}",
            "the operator takes it off: does it run? If it is uninstalled: "
                f"kubectl label namespace {shown} {namespace_mapping.LABEL}-",
        )  # fmt: skip
    for one in cluster.injection_secrets:
        if one in labels and not labels[one]:
            yield warning(
                name, f"namespace {one} has a Secret oneagent-injection, and no DynaKube",
                f"kubectl -n {one} delete secret oneagent-injection",
            )  # fmt: skip


def _labelled(owner: str) -> str:
    return f"the operator labels it within seconds: does it run? The condition NamespaceMapping of {owner} says more"


def claimants(cluster: ClusterSnapshot, namespace: Object) -> list[str]:
    """The DynaKubes whose selectors match a namespace, whether or not it is ignored."""
    found, _ = claims(cluster)
    return [one.dynakube for one in found if any(each.matches(k8s_objects.labels(namespace)) for each in one.selectors)]
