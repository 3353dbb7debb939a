"""CRD, webhook configurations, and the API server's trust in the webhook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from oneagent.operator.cli import k8s_objects, snapshot, tls_check
from oneagent.operator.cli.doctor import Finding, error, installation, note, warning
from oneagent.operator.cli.snapshot import ClusterSnapshot

_APPLY: Final = "apply the manifests or the chart again"
_CA_BUNDLE: Final = (
    "the operator adds it within a minute: check that it runs and leads, and that no other tool removes it; "
    "with cert-manager check its cainjector"
)


def definition(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name, crd = "Definition", cluster.definition
    if crd is None:
        if installation.state(cluster) == installation.NOT_INSTALLED:
            return
        yield error(name, f"the CRD {snapshot.DEFINITION} is not there", "apply deploy/crd.yaml, or crd.install=true")
        return
    if not k8s_objects.has_condition(crd, "Established"):
        message = k8s_objects.conditions(crd).get("NamesAccepted", {}).get("message", "")
        yield error(name, f"the CRD {snapshot.DEFINITION} is not established: {message}", "another CRD has its names")
    storage = [version["name"] for version in crd["spec"]["versions"] if version["storage"]]
    stored = k8s_objects.status(crd).get("storedVersions") or []
    if old := [version for version in stored if version not in storage]:
        yield note(
            name, f"DynaKubes may still be stored as {', '.join(old)}; the operator writes them again as {storage[0]}"
        )


def configurations(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name = "WebhookConfigurations"
    deployed = cluster.deployment(snapshot.WEBHOOK) is not None
    for kind, configuration in (("Mutating", cluster.mutating), ("Validating", cluster.validating)):
        title = f"the {kind}WebhookConfiguration {snapshot.WEBHOOK}"
        if configuration is None and deployed:
            effect = "no pod gets an agent" if kind == "Mutating" else "no DynaKube is checked as it is applied"
            yield error(name, f"{title} is not there: {effect}", _APPLY)
        elif configuration is not None and not deployed:
            yield error(
                name, f"{title} is there, and the Deployment {snapshot.WEBHOOK} is not", f"delete {title}, or {_APPLY}"
            )


def trust(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name, bundles = "Trust", cluster.bundles
    for place, bundle in bundles.items():
        if not bundle:
            yield error(name, f"the API server can't trust the {place}: it has no caBundle", _CA_BUNDLE)
    if len({bundle.strip() for bundle in bundles.values() if bundle}) > 1:
        yield warning(
            name,
            "the webhook configurations and the CRD have different caBundles: "
            f"{', '.join(place for place, bundle in bundles.items() if bundle)}",
            f"{_CA_BUNDLE}. It resolves itself while a CA is being renewed",
        )


def certificate(cluster: ClusterSnapshot) -> Iterator[Finding]:
    name = "Certificate"
    for served in cluster.served:
        pod = f"pod {served.pod} of the webhook"
        if served.unreachable:
            yield warning(
                name, f"certificate of {pod} unknown: {served.unreachable}",
                "it needs the permission to create pods/portforward, and a network path to the node",
            )  # fmt: skip
        elif served.problem:
            yield error(
                name, f"the API server refuses the certificate of {pod}: {served.problem}",
                "delete the Secret oneagent-webhook-certs: the operator recreates it, or logs why not; with "
                "cert-manager check the Certificate",
            )  # fmt: skip
        elif tls_check.is_overdue(served, cluster.taken_at):
            hours = (served.ends - cluster.taken_at) / 3600
            yield warning(
                name, f"the certificate of {pod} expires in {hours:.1f} h and was not renewed in time",
                "the operator renews it at two thirds of its lifetime: its log and Events have the reason",
            )  # fmt: skip
