"""DynaKubes: their conditions, tokens, namespaces, and leftovers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from oneagent.common import agents, remedies
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.kubernetes.fields import FieldError
from oneagent.operator.cli import k8s_objects
from oneagent.operator.cli.doctor import Finding, error, installation, note, warning
from oneagent.operator.cli.kubectl import Object
from oneagent.operator.cli.snapshot import ClusterSnapshot

TOKEN_KEY: Final = "apiToken"  # noqa: S105
_OTHER_KEY: Final = "paasToken"
GRACE_SECONDS: Final = 300.0
"""Age from which pending work is a warning."""
TOKENS_REFUSED: Final = "TokensRefused"
"""Reason of a condition that fails because of the tokens. The operator's module of it needs more than this program."""
ROLLOUT: Final = "AgentRollout"
"""Condition that a version could not be installed on nodes"""
UNREACHABLE: Final = "TenantUnreachable"
"""Reason of a condition that fails because the tenant does not respond."""
_CONNECTION: Final = "OneAgentConnectionInfo"
_NOT_KNOWN: Final = frozenset({"TenantNotContacted", "VersionNotKnown"})
"""Reasons of conditions that wait for the tenant's answers"""
_SUMMARY: Final = "Ready"


def conditions(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Report the operator's conditions, unreachable tenants among them."""
    name = "DynaKubes"
    if not cluster.dynakubes:
        yield note(name, f"there is no DynaKube in the namespace {cluster.namespace}")
    for kube in cluster.dynakubes:
        dynakube, kube_conditions = agents.describe_object(k8s_objects.name(kube)), k8s_objects.conditions(kube)
        if k8s_objects.is_deleting(kube):
            yield note(name, f"{dynakube} is being deleted")
            continue
        if not kube_conditions:
            yield warning(name, f"the operator has not reconciled {dynakube} yet", "check that the operator runs")
        for kind, condition in kube_conditions.items():
            if kind == _SUMMARY or _is_consequence(kind, kube, cluster):
                continue
            since = k8s_objects.age_seconds(condition.get("lastTransitionTime"), cluster.taken_at)
            message = str(condition.get("message", ""))
            sentence = f"{dynakube}: {kind}: {message}"
            if condition.get("status") == "False":
                cause, remedy = message, _remedy(kind, kube, cluster)
                if kind == ROLLOUT or (kind == _CONNECTION and remedies.split(message)[1]):
                    cause, remedy = explain_failure(message, kube, cluster)
                yield error(name, f"{dynakube}: {kind}: {cause}", remedy)
            elif condition.get("status") != "True" and since > GRACE_SECONDS:
                yield warning(name, f"{sentence} (for {since / 60:.0f} min)", "the operator's log has the reason")
            elif condition.get("status") != "True":
                yield note(name, sentence)


def explain_failure(message: str, kube: Object | None, cluster: ClusterSnapshot) -> tuple[str, str]:
    """Return the cause of a failed install, and the remedy: a command where there is one."""
    cause, remedy = remedies.split(message)
    if kube is not None and remedies.is_token_refused(message):
        remedy = _remedy("Tokens", kube, cluster)
    return cause, remedy or remedies.GENERAL


def _is_consequence(kind: str, kube: Object, cluster: ClusterSnapshot) -> bool:
    """Return True for a condition whose cause is a finding of its own.

    That is a tenant that does not answer, a rejected token, or a Secret without tokens.
    """
    kube_conditions = k8s_objects.conditions(kube)
    condition = kube_conditions[kind]
    if condition.get("status") == "Unknown" and condition.get("reason") in _NOT_KNOWN:
        return kube_conditions.get(_CONNECTION, {}).get("status") == "False"
    if condition.get("reason") == TOKENS_REFUSED or (
        kind == ROLLOUT and remedies.is_about_token(str(condition.get("message", "")))
    ):
        return is_token_refused(kube)
    connection = kube_conditions.get(_CONNECTION, {})
    if kind != _CONNECTION and connection.get("reason") == UNREACHABLE:
        return str(connection.get("message", "")).partition(";")[0] in str(condition.get("message", ""))
    return kind == "Tokens" and bool(list(_missing_tokens(kube, cluster)))


def is_token_refused(kube: Object) -> bool:
    """Return True if a condition reports the token, which then explains all other refusals."""
    return k8s_objects.conditions(kube).get("Tokens", {}).get("status") == "False"


def _remedy(kind: str, kube: Object, cluster: ClusterSnapshot) -> str:
    if kind == "Tokens":
        patch = f'{{"stringData":{{"{TOKEN_KEY}":"TOKEN"}}}}'
        return f"kubectl -n {cluster.namespace} patch secret {_tokens_secret(kube)} --type=merge -p '{patch}'"
    return f"kubectl -n {cluster.namespace} describe {k8s_objects.resource(k8s_objects.name(kube))}"


def _tokens_secret(kube: Object) -> str:
    return str((kube.get("spec") or {}).get("tokens") or k8s_objects.name(kube))


def tokens(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Check that the Secret and its key exist; a condition reports if the tenant accepts the token."""
    for kube in cluster.dynakubes:
        yield from _missing_tokens(kube, cluster)


def _missing_tokens(kube: Object, cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Yield the finding about a Secret that is not there, or lacks the key; none if Secrets can't be read."""
    name, spec = "Tokens", kube.get("spec") or {}
    if not spec.get("apiUrl") or k8s_objects.is_deleting(kube) or "secrets" in cluster.unread:
        return
    secret = _tokens_secret(kube)
    create = f"kubectl -n {cluster.namespace} create secret generic {secret} --from-literal={TOKEN_KEY}=TOKEN"
    secret_name = f"the Secret {secret} of DynaKube {k8s_objects.name(kube)}"
    if secret not in cluster.secrets:
        yield error(name, f"{secret_name} does not exist: no version can be downloaded", create)
    elif not cluster.secrets[secret] & {TOKEN_KEY, _OTHER_KEY}:
        yield error(
            name, f"{secret_name} has no key {TOKEN_KEY}: no version can be downloaded", _remedy(name, kube, cluster)
        )


def read_claims(cluster: ClusterSnapshot) -> tuple[list[namespace_mapping.Claim], list[FieldError]]:
    """Return the DynaKubes' claims to namespaces, and the invalid ones."""
    claims, invalid = [], []
    for kube in cluster.dynakubes:
        if k8s_objects.is_deleting(kube):
            continue
        try:
            claims.append(namespace_mapping.claim(kube, cluster.namespace))
        except FieldError as problem:
            invalid.append(problem)
    return claims, invalid


def namespaces(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name = "Namespaces"
    claims, invalid = read_claims(cluster)
    yield from (error(name, f"invalid selector of a DynaKube: {field}", "correct that field") for field in invalid)
    if invalid:
        return
    for namespace in cluster.namespaces:
        if k8s_objects.is_deleting(namespace):
            continue
        namespace_name, label = k8s_objects.name(namespace), k8s_objects.labels(namespace).get(namespace_mapping.LABEL)
        owner = namespace_mapping.decide(namespace_name, k8s_objects.labels(namespace), claims).owner
        if owner != label and owner is not None:
            yield error(
                name,
                f"namespace {namespace_name} belongs to {agents.describe_object(owner)}, and its label "
                f"{namespace_mapping.LABEL} {f'is {label}' if label else 'is missing'}: new pods there get "
                f"{f'the agent of {agents.describe_object(label)}' if label else 'no agent'}",
                "check that the operator runs, which labels it within seconds, and the condition NamespaceMapping of "
                f"{agents.describe_object(owner)}",
            )


def leftovers(cluster: ClusterSnapshot) -> Iterator[Finding]:
    """Find objects that should have been removed with a DynaKube."""
    name = "Leftovers"
    if installation.other_namespace(cluster):
        return  # Its DynaKubes were not read.
    claims, invalid = read_claims(cluster)
    existing = {k8s_objects.name(kube) for kube in cluster.dynakubes}
    remaining = [namespace for namespace in cluster.namespaces if not k8s_objects.is_deleting(namespace)]
    labels = {k8s_objects.name(obj): k8s_objects.labels(obj).get(namespace_mapping.LABEL) for obj in remaining}
    for namespace in remaining:
        namespace_name, label = k8s_objects.name(namespace), k8s_objects.labels(namespace).get(namespace_mapping.LABEL)
        if (
            not label
            or invalid
            or namespace_mapping.decide(namespace_name, k8s_objects.labels(namespace), claims).owner is not None
        ):
            continue
        kind, named = agents.kind_of_object(label), agents.describe_object(label)
        why = f"no {kind} selects it any more" if label in existing else f"there is no {named}"
        yield warning(
            name, f"namespace {namespace_name} has the label {namespace_mapping.LABEL}={label}, but {why}",
            "check that the operator runs, which removes it. After an uninstall: "
                f"kubectl label namespace {namespace_name} {namespace_mapping.LABEL}-",
        )  # fmt: skip
    for namespace_name in cluster.injection_secrets:
        if namespace_name in labels and not labels[namespace_name]:
            yield warning(
                name, f"namespace {namespace_name} has a Secret oneagent-injection, and no DynaKube",
                f"kubectl -n {namespace_name} delete secret oneagent-injection",
            )  # fmt: skip


def list_claimants(cluster: ClusterSnapshot, namespace: Object) -> list[str]:
    """Return the DynaKubes whose selectors match a namespace, even if it is ignored."""
    claims, _ = read_claims(cluster)
    labels = k8s_objects.labels(namespace)
    return [claim.dynakube for claim in claims if any(selector.matches(labels) for selector in claim.selectors)]
