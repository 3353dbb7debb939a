"""All checks, and their findings about a snapshot of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from oneagent.operator.cli.doctor import (
    DoctorReport,
    Finding,
    Severity,
    dynakubes,
    nodes,
    warning,
    webhook_configuration,
    workloads,
)
from oneagent.operator.cli.snapshot import ClusterSnapshot

_SEVEREST: Final = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    run: Callable[[ClusterSnapshot], Iterable[Finding]]
    needs: tuple[str, ...]
    """Fields of the snapshot."""


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
    Check("Nodes", nodes.reports, ("pods",)),
    Check("DynaKubes", dynakubes.conditions, ("dynakubes",)),
    Check("Tokens", dynakubes.tokens, ("dynakubes", "secrets")),
    Check("Namespaces", dynakubes.namespaces, ("dynakubes", "namespaces")),
    Check("Leftovers", dynakubes.leftovers, ("dynakubes", "namespaces", "injection_secrets")),
)


def run_checks(cluster: ClusterSnapshot) -> DoctorReport:
    """Run all checks; findings by severity, then in the order of the checks."""
    runnable = tuple(check for check in CHECKS if not set(check.needs) & cluster.unread.keys())
    findings = [*_unread(cluster), *(finding for check in runnable for finding in check.run(cluster))]
    findings.sort(key=lambda finding: _SEVEREST.index(finding.severity))
    return DoctorReport(tuple(findings), tuple(check.name for check in runnable), len(cluster.reports))


def _unread(cluster: ClusterSnapshot) -> Iterator[Finding]:
    for field, why in cluster.unread.items():
        skipped = [check.name for check in CHECKS if field in check.needs]
        left_out = f", so {', '.join(skipped)} could not be checked" if skipped else ""
        yield warning(
            "Unread",
            f"{field.replace('_', ' ')} can't be read{left_out}: {why}",
            "use an account that may read them; or, after a timeout, a longer --timeout",
        )
