"""DynaKubes: their conditions, tokens, namespaces, and leftovers."""

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
GRACE_SECONDS: Final = 300.0
"""Age from which pending work is a warning."""
_SUMMARY: Final = "Ready"


def conditions(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Report the operator's conditions, unreachable tenants among them."""
    name = "DynaKubes"
    if not cluster.dynakubes:
        yield note(name, f"there is no DynaKube in the namespace {cluster.namespace}")
    for kube in cluster.dynakubes:
        shown, found = f"DynaKube {k8s_objects.name(kube)}", k8s_objects.conditions(kube)
        if not found:
            yield warning(name, f"the operator has not reconciled {shown} yet", "check that the operator runs")
        for kind, condition in found.items():
            if kind == _SUMMARY:
                continue
            since = k8s_objects.age_seconds(condition.get("lastTransitionTime"), cluster.taken_at)
            said = f"{shown}: {kind}: {condition.get('message', '')}"
            if condition.get("status") == "False":
                yield error(name, said, f"kubectl -n {cluster.namespace} describe dynakube {k8s_objects.name(kube)}")
            elif condition.get("status") != "True" and since > GRACE_SECONDS:
                yield warning(name, f"{said} (for {since / 60:.0f} min)", "the operator's log has the reason")
            elif condition.get("status") != "True":
                yield note(name, said)


def tokens(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Check that the Secret and its key exist; the tenant's verdict on the token is in a condition."""
    name = "Tokens"
    for kube in cluster.dynakubes:
        spec = kube.get("spec") or {}
        if not spec.get("apiUrl"):
            continue
        secret = spec.get("tokens") or k8s_objects.name(kube)
        create = f"kubectl -n {cluster.namespace} create secret generic {secret} --from-literal={TOKEN_KEY}=TOKEN"
        who = f"the Secret {secret} of DynaKube {k8s_objects.name(kube)}"
        if secret not in cluster.secrets:
            yield error(name, f"{who} does not exist: no version can be downloaded", create)
        elif not cluster.secrets[secret] & {TOKEN_KEY, _OTHER_KEY}:
            yield error(
                name, f"{who} has no key {TOKEN_KEY}: no version can be downloaded", f"delete the Secret, and {create}"
            )


def claims(cluster: ClusterSnapshot) -> tuple[list[namespace_mapping.Claim], list[FieldError]]:
    """Return the DynaKubes' claims to namespaces, and the invalid ones."""
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
    yield from (error(name, f"invalid selector of a DynaKube: {one}", "correct that field") for one in wrong)
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
    """Find objects that should have been removed with a DynaKube."""
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
            "check that the operator runs, which removes it. After an uninstall: "
                f"kubectl label namespace {shown} {namespace_mapping.LABEL}-",
        )  # fmt: skip
    for one in cluster.injection_secrets:
        if one in labels and not labels[one]:
            yield warning(
                name, f"namespace {one} has a Secret oneagent-injection, and no DynaKube",
                f"kubectl -n {one} delete secret oneagent-injection",
            )  # fmt: skip


def _labelled(owner: str) -> str:
    return (
        f"check that the operator runs, which labels it within seconds, and the condition NamespaceMapping of {owner}"
    )


def claimants(cluster: ClusterSnapshot, namespace: Object) -> list[str]:
    """Return the DynaKubes whose selectors match a namespace, even if it is ignored."""
    found, _ = claims(cluster)
    return [one.dynakube for one in found if any(each.matches(k8s_objects.labels(namespace)) for each in one.selectors)]
