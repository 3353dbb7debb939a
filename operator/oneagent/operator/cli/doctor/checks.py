"""All checks, and their findings about a snapshot of the cluster.

`status` runs those that need no command in a pod, so that it and `doctor` never disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from oneagent.operator.cli.doctor import (
    CheckResult,
    DoctorReport,
    Finding,
    Mark,
    Severity,
    dynakubes,
    installation,
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
    title: str
    """Statement that is true if nothing is found."""
    run: Callable[[ClusterSnapshot], Iterable[Finding]]
    needs: tuple[str, ...]
    """Fields of the snapshot."""
    is_for_remains: bool = False
    """Run it also where operator, webhook and driver are gone, of which the others would say that they are well."""


CHECKS: Final = (
    Check(
        "Installation",
        "operator, webhook and driver are installed, or nothing of them",
        installation.installation,
        ("deployments", "daemon_sets"),
        is_for_remains=True,
    ),
    Check("Definition", "the CRD is established", webhook_configuration.definition, ("definition",)),
    Check(
        "WebhookConfigurations",
        "the webhook's configurations are there, and the webhook behind them",
        webhook_configuration.configurations,
        ("mutating", "validating", "deployments"),
    ),
    Check(
        "Trust",
        "the API server trusts the webhook",
        webhook_configuration.trust,
        ("definition", "mutating", "validating"),
    ),
    Check(
        "Certificate",
        "the webhook serves a certificate that is accepted",
        webhook_configuration.certificate,
        ("pods", "mutating"),
    ),
    Check("Deployments", "operator and webhook are ready", workloads.deployments, ("deployments", "pods")),
    Check("Release", "all components are of one release", workloads.release, ("deployments", "daemon_sets", "pods")),
    Check("PodSecurity", "the namespace admits the driver", workloads.pod_security, ("namespaces",)),
    Check("Images", "images can be pulled", workloads.images, ("pods", "pending")),
    Check("Secrets", "the Secrets of the certificates are there", installation.secrets, ("deployments", "secrets")),
    Check("Driver", "the CSIDriver fits its DaemonSet", nodes.driver, ("csi_driver", "daemon_sets")),
    Check(
        "NodesWithoutDriver",
        "each node has a ready driver",
        nodes.without_driver,
        ("daemon_sets", "nodes", "pods"),
    ),
    Check("Registration", "each driver is registered with kubelet", nodes.registration, ("csi_nodes", "pods")),
    Check("Nodes", "the nodes report no problems", nodes.reports, ("pods",)),
    Check("DynaKubes", "the DynaKubes' conditions hold", dynakubes.conditions, ("dynakubes",)),
    Check("Tokens", "the DynaKubes' tokens are there", dynakubes.tokens, ("dynakubes", "secrets")),
    Check(
        "Namespaces", "namespaces have the labels of their DynaKubes", dynakubes.namespaces, ("dynakubes", "namespaces")
    ),
    Check(
        "Deletion",
        "no deletion is stuck",
        installation.deletion,
        ("dynakubes", "definition", "deployments"),
        is_for_remains=True,
    ),
    Check(
        "Leftovers",
        "nothing is left of former DynaKubes",
        dynakubes.leftovers,
        ("dynakubes", "namespaces", "injection_secrets"),
        is_for_remains=True,
    ),
)


def run_checks(cluster: ClusterSnapshot, checks: Iterable[Check] = CHECKS) -> DoctorReport:
    """Run the checks; findings by severity, then in the order of the checks."""
    checks = tuple(checks)
    is_installed = installation.state(cluster) == installation.INSTALLED
    applicable = tuple(check for check in checks if is_installed or check.is_for_remains)
    runnable = tuple(check for check in applicable if not set(check.needs) & cluster.unread.keys())
    found = {check.name: _run(check, cluster) for check in runnable}
    findings = [*_unread(cluster, applicable), *(finding for own in found.values() for finding in own)]
    findings.sort(key=lambda finding: _SEVEREST.index(finding.severity))
    results = tuple(CheckResult(check.name, check.title, _mark(found.get(check.name))) for check in checks)
    return DoctorReport(tuple(findings), tuple(check.name for check in runnable), len(cluster.reports), results)


def _run(check: Check, cluster: ClusterSnapshot) -> list[Finding]:
    """Return the findings of a check; a defect in it, or an object of a form that it does not know, is one."""
    found = []
    try:
        for finding in check.run(cluster):
            found.append(finding)  # noqa: PERF402 - what came before a defect counts
    except Exception as defect:  # noqa: BLE001 - the others are run anyhow
        found.append(
            warning(
                check.name,
                f"this check ended with a defect of its own: {type(defect).__name__}: {defect}",
                "report it with kubectl oneagent support-archive",
            )
        )
    return found


def _mark(found: Iterable[Finding] | None) -> Mark:
    if found is None:
        return Mark.SKIPPED
    severities = {finding.severity for finding in found}
    if Severity.ERROR in severities:
        return Mark.ERROR
    return Mark.WARNING if Severity.WARNING in severities else Mark.PASSED


def _unread(cluster: ClusterSnapshot, checks: Iterable[Check]) -> Iterator[Finding]:
    for field, why in cluster.unread.items():
        skipped = [check.name for check in checks if field in check.needs]
        left_out = f", so {', '.join(skipped)} could not be checked" if skipped else ""
        yield warning(
            "Unread",
            f"{field.replace('_', ' ')} can't be read{left_out}: {why}",
            "use an account that may read them; or, after a timeout, a longer --timeout",
        )
