"""State in the cluster: two Secrets, and the configurations with the CA bundles for API servers.

    oneagent-webhook-ca       ca.crt, ca.key   the CA
                              ca.crt.old       CAs whose certificates may still be served
                              annotations      times since when the CA is published and served
    oneagent-webhook-certs    tls.crt, tls.key the webhook's certificate
                              ca.crt           all trusted CAs

A rotation has no other state, so it can be interrupted at any point. Unreadable data counts as missing. With
cert-manager the first Secret has no key, and cert-manager writes the second one.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from oneagent.operator import api
from oneagent.operator.certificates import x509
from oneagent.operator.certificates.settings import CertificateSettings

PUBLISHED: Final = "certificates.internal.dynatrace.com/published"
SERVED: Final = "certificates.internal.dynatrace.com/served"
CERT_MANAGER: Final = "cert-manager.io/certificate-name"
INJECTED: Final = ("cert-manager.io/inject-ca-from", "cert-manager.io/inject-ca-from-secret")

_LABELS: Final = {
    "app.kubernetes.io/name": "oneagent-operator",
    "app.kubernetes.io/component": "webhook",
    "app.kubernetes.io/managed-by": "oneagent-operator",
}


@dataclass(frozen=True, slots=True)
class Milestone:
    """Time since when a CA is published or served."""

    fingerprint: str
    since: float

    def age(self, now: float) -> float:
        """Negative if the clock was set back."""
        return now - self.since


@dataclass(frozen=True, slots=True)
class Record:
    """Content of the CA's Secret."""

    current: tuple[x509.Certificate, ...] = ()
    """One CA; with cert-manager, those of its issuer."""
    authority: x509.Pair | None = None
    """CA that issues; None if it is unusable, with the reason in `problem`, or cert-manager's."""
    former: tuple[x509.Certificate, ...] = ()
    published: Milestone | None = None
    served: Milestone | None = None
    problem: str = ""

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        return *self.current, *self.former


@dataclass(frozen=True, slots=True)
class Served:
    """Content of the webhook's Secret."""

    exists: bool = False
    certificate: x509.Certificate | None = None
    problem: str = ""
    """Reason why it cannot be served."""
    bundle: bytes = b""
    by_cert_manager: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """An object with CA bundles for API servers; only the bundles that the operator manages."""

    resource: api.Resource
    manifest: api.Object
    bundles: tuple[bytes, ...]
    converts: bool = True
    """False for a CRD without conversion by the webhook."""

    @property
    def name(self) -> str:
        return f"{self.resource.kind} {self.manifest['metadata']['name']}"

    def trusts(self, authority: x509.Certificate) -> bool:
        return all(authority in x509.read_bundle(bundle) for bundle in self.bundles)


@dataclass(frozen=True, slots=True)
class ClusterState:
    record: Record
    served: Served
    targets: tuple[Target, ...]
    failed: frozenset[str] = frozenset()
    """Targets that could not be read or written in this run."""
    unavailable: bool = False
    """One of them failed temporarily."""


def record(secret: Mapping[str, Any] | None) -> Record:
    if secret is None:
        return Record(problem="does not exist")
    data, annotations = _data(secret), _annotations(secret)
    current, authority, problem = x509.read_bundle(data.get("ca.crt", b"")), None, ""
    try:
        authority = x509.read_authority(data.get("ca.crt", b""), data.get("ca.key", b""))
    except x509.UnusableError as error:
        problem = str(error)
    else:
        current = (authority.certificate,)
    marks = {key: _milestone(annotations.get(key), current) for key in (PUBLISHED, SERVED)}
    former = x509.read_bundle(data.get("ca.crt.old", b""))
    return Record(current, authority, former, marks[PUBLISHED], marks[SERVED], problem)


def record_secret(record: Record, settings: CertificateSettings, before: Mapping[str, Any] | None) -> api.Object:
    """Build the CA's Secret from a record."""
    data = {"ca.crt": x509.bundle(record.current)}
    if record.authority:
        data["ca.key"] = record.authority.key_pem
    if record.former:
        data["ca.crt.old"] = x509.bundle(record.former)
    marks = {PUBLISHED: record.published, SERVED: record.served}
    others = {key: value for key, value in _annotations(before or {}).items() if key not in marks}
    annotations = others | {key: f"{mark.fingerprint} {mark.since:.3f}" for key, mark in marks.items() if mark}
    return _secret(settings.authority_secret, "Opaque", data, settings, before, annotations)


def served(secret: Mapping[str, Any] | None) -> Served:
    if secret is None:
        return Served(problem="does not exist")
    data, certificate, problem = _data(secret), None, ""
    try:
        certificate = x509.read_certificate(data.get("tls.crt", b""))
        x509.read_pair(data.get("tls.crt", b""), data.get("tls.key", b""))
    except x509.UnusableError as error:
        problem = str(error)
    by_cert_manager = CERT_MANAGER in _annotations(secret)
    return Served(True, certificate, problem, data.get("ca.crt", b""), by_cert_manager)


def served_secret(
    bundle: bytes, pair: x509.Pair | None, settings: CertificateSettings, before: Mapping[str, Any] | None
) -> api.Object:
    """Build the webhook's Secret with a bundle and, if given, a new certificate."""
    data = {**_data(before or {}), "ca.crt": bundle}
    if pair:
        data |= {"tls.crt": pair.certificate.pem, "tls.key": pair.key_pem}
    return _secret(settings.secret, "kubernetes.io/tls", data, settings, before, _annotations(before or {}))


def hooks(resource: api.Resource, manifest: api.Object, settings: CertificateSettings) -> Target:
    """Read a webhook configuration."""
    bundles = [_decoded(config.get("caBundle")) for config in _configs(manifest, settings)]
    return Target(resource, manifest, () if _is_injected(manifest) else tuple(bundles))


def definition(manifest: api.Object, settings: CertificateSettings) -> Target:
    """Read the CRD; its bundle counts only if the webhook converts, else `conversion_patch` sets it."""
    conversion = manifest["spec"].get("conversion") or {}
    webhook = conversion.get("webhook") or {}
    config = webhook.get("clientConfig") or {}
    ours = conversion.get("strategy") == "Webhook" and _is_ours(config, settings)
    service = config.get("service") or {}
    converts = (
        ours
        and service.get("path") == settings.conversion_path
        and service.get("port", 443) == settings.port
        and "v1" in (webhook.get("conversionReviewVersions") or ())
    )
    bundles = (_decoded(config.get("caBundle")),) if ours and not _is_injected(manifest) else ()
    return Target(api.DEFINITIONS, manifest, bundles, converts)


def bundle_patch(target: Target, bundle: bytes, settings: CertificateSettings) -> api.Object:
    """Return a merge patch for the version that was read, because it replaces whole lists."""
    text, metadata = b64encode(bundle).decode(), _version(target)
    if target.resource == api.DEFINITIONS:
        return {"metadata": metadata, "spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": text}}}}}
    webhooks = []
    for webhook in target.manifest.get("webhooks") or ():
        config = webhook["clientConfig"]
        ours = _is_ours(config, settings)
        webhooks.append({**webhook, "clientConfig": {**config, "caBundle": text}} if ours else webhook)
    return {"metadata": metadata, "webhooks": webhooks}


def conversion_patch(target: Target, bundle: bytes, settings: CertificateSettings) -> api.Object:
    service = {
        "name": settings.service,
        "namespace": settings.namespace,
        "path": settings.conversion_path,
        "port": settings.port,
    }
    config: dict[str, Any] = {"url": None, "service": service}
    if not _is_injected(target.manifest):
        config["caBundle"] = b64encode(bundle).decode()
    webhook = {"clientConfig": config, "conversionReviewVersions": ["v1"]}
    return {"metadata": _version(target), "spec": {"conversion": {"strategy": "Webhook", "webhook": webhook}}}


def needs_replacement(manifest: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """True if the Secret must be deleted and created again: immutable, or of another type."""
    return bool(before.get("immutable")) or before.get("type") != manifest["type"]


def _secret(
    name: str,
    kind: str,
    data: Mapping[str, bytes],
    settings: CertificateSettings,
    before: Mapping[str, Any] | None,
    annotations: Mapping[str, str],
) -> api.Object:
    old = (before or {}).get("metadata") or {}
    metadata = {
        "name": name,
        "namespace": settings.namespace,
        "labels": {**(old.get("labels") or {}), **_LABELS},
        "annotations": dict(annotations),
    }
    if before is not None:
        metadata["resourceVersion"] = old["resourceVersion"]
    encoded = {key: b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": encoded}


def _configs(manifest: Mapping[str, Any], settings: CertificateSettings) -> Iterable[Mapping[str, Any]]:
    configs = (webhook["clientConfig"] for webhook in manifest.get("webhooks") or ())
    return [config for config in configs if _is_ours(config, settings)]


def _is_ours(config: Mapping[str, Any], settings: CertificateSettings) -> bool:
    service = config.get("service") or {}
    return (service.get("name"), service.get("namespace")) == (settings.service, settings.namespace)


def _is_injected(manifest: Mapping[str, Any]) -> bool:
    """True if cert-manager writes the bundle; two writers of one field would never end."""
    return any(key in _annotations(manifest) for key in INJECTED)


def _annotations(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    return (manifest.get("metadata") or {}).get("annotations") or {}


def _version(target: Target) -> dict[str, str]:
    return {"resourceVersion": target.manifest["metadata"]["resourceVersion"]}


def _data(secret: Mapping[str, Any]) -> dict[str, bytes]:
    return {key: _decoded(value) for key, value in (secret.get("data") or {}).items()}


def _decoded(text: Any) -> bytes:
    try:
        return b64decode(text or "")
    except (binascii.Error, ValueError, TypeError):
        return b""


def _milestone(text: str | None, current: Iterable[x509.Certificate]) -> Milestone | None:
    """Parse a milestone; None if it is invalid or about another CA."""
    fingerprint, _, since = (text or "").partition(" ")
    if fingerprint not in {certificate.fingerprint for certificate in current}:
        return None
    try:
        return Milestone(fingerprint, float(since))
    except ValueError:
        return None
