"""All checks, and what is made of a picture by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from oneagent.operator.cli.doctor import (
    Diagnosis,
    Finding,
    Severity,
    dynakubes,
    nodes,
    warning,
    webhook_configuration,
    workloads,
)
from oneagent.operator.cli.snapshot import Cluster

_SEVEREST: Final = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    judge: Callable[[Cluster], Iterable[Finding]]
    needs: tuple[str, ...]
    """Fields of the picture."""


CHECKS: Final = (
    Check("Definition", webhook_configuration.definition, ("definition",)),
    Check("WebhookConfigurations", webhook_configuration.configurations, ("mutating", "validating", "deployments")),
    Check("Trust", webhook_configuration.trust, ("definition", "mutating", "validating")),
    Check("Certificate", webhook_configuration.certificate, ("pods", "mutating")),
    Check("Deployments", workloads.deployments, ("deployments", "pods")),
    Check("Release", workloads.release, ("deployments", "daemon_sets")),
    Check("PodSecurity", workloads.pod_security, ("namespaces",)),
    Check("Images", workloads.images, ("pods", "pending")),
    Check("Driver", nodes.driver, ("csi_driver", "daemon_sets")),
    Check("NodesWithoutDriver", nodes.without_driver, ("daemon_sets", "nodes", "pods")),
    Check("Registration", nodes.registration, ("csi_nodes", "pods")),
    Check("Nodes", nodes.answers, ("pods",)),
    Check("DynaKubes", dynakubes.conditions, ("dynakubes",)),
    Check("Tokens", dynakubes.tokens, ("dynakubes", "secrets")),
    Check("Namespaces", dynakubes.namespaces, ("dynakubes", "namespaces")),
    Check("Leftovers", dynakubes.leftovers, ("dynakubes", "namespaces", "injection_secrets")),
)


def judge(picture: Cluster) -> Diagnosis:
    """What is worst comes first; else in the order of the checks."""
    done = tuple(check for check in CHECKS if not set(check.needs) & picture.unread.keys())
    found = [*_unread(picture), *(finding for check in done for finding in check.judge(picture))]
    found.sort(key=lambda finding: _SEVEREST.index(finding.severity))
    return Diagnosis(tuple(found), tuple(check.name for check in done), len(picture.answers))


def _unread(picture: Cluster) -> Iterator[Finding]:
    for field, why in picture.unread.items():
        skipped = [check.name for check in CHECKS if field in check.needs]
        left_out = f", so {', '.join(skipped)} could not be checked" if skipped else ""
        yield warning(
            "Unread",
            f"{field.replace('_', ' ')} can't be read{left_out}: {why}",
            "ask with an account that may read them; or, if there was no answer, with a longer --timeout",
        )
