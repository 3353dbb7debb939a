"""Creates and parses keys and certificates.

Strict verifiers (Go, Python 3.13 with `VERIFY_X509_STRICT`) require key identifiers of subject and authority, a
critical key usage, and subject alternative names. Every CA has a unique name, because verifiers find an issuer by
name and trust the former and the new CA at the same time.

Input is untrusted: any error in it is an `UnusableError`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_NAME: Final = "oneagent-webhook-ca"

_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_LONGEST_NAME: Final = 64
"""Limit of a common name, by RFC 5280."""


class UnusableError(Exception):
    """An unusable key or certificate; the text is the reason, without any content."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A completely parsed certificate, so that no later access can fail."""

    x509: x509.Certificate
    pem: bytes
    fingerprint: str
    """SHA-256 of its DER form, in hex."""
    not_before: float
    not_after: float
    """Seconds since the epoch, as all times in this module."""
    is_authority: bool
    hosts: frozenset[str]

    def is_valid(self, now: float) -> bool:
        return self.not_before <= now < self.not_after

    def signed_by(self, authority: Certificate) -> bool:
        try:
            self.x509.verify_directly_issued_by(authority.x509)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Pair:
    certificate: Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def new_authority(now: float, life_seconds: float, skew_seconds: float) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _name(f"{AUTHORITY_NAME} {identifier.digest.hex()[:16]}")
    builder = (
        _builder(key, now - skew_seconds, now + life_seconds)
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return Pair(_certificate(builder.sign(key, hashes.SHA256())), key)


def issue(authority: Pair, hosts: Sequence[str], now: float, life_seconds: float, skew_seconds: float) -> Pair:
    """Issue a server certificate with a new key; it does not outlive its issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = authority.certificate
    until = min(now + life_seconds, signer.not_after)
    signer_identifier = signer.x509.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(key, max(now - skew_seconds, signer.not_before), until)
        .subject_name(_name(hosts[0][:_LONGEST_NAME]))
        .issuer_name(signer.x509.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer_identifier), critical=False
        )
    )
    return Pair(_certificate(builder.sign(authority.key, hashes.SHA256())), key)


def read_certificate(pem: bytes) -> Certificate:
    """Parse the first certificate of a chain."""
    with _parsing("certificate"):
        return _certificate(x509.load_pem_x509_certificate(pem))


def read_pair(certificate_pem: bytes, key_pem: bytes) -> Pair:
    certificate = read_certificate(certificate_pem)
    with _parsing("key"):
        key = serialization.load_pem_private_key(key_pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UnusableError("the key is not an elliptic curve key")
        if key.public_key() != certificate.x509.public_key():
            raise UnusableError("the key does not match the certificate")
    return Pair(certificate, key)


def read_authority(certificate_pem: bytes, key_pem: bytes) -> Pair:
    """Parse a CA that `issue` can sign with."""
    pair = read_pair(certificate_pem, key_pem)
    if not pair.certificate.is_authority:
        raise UnusableError("the certificate is not a CA certificate")
    if not pair.certificate.signed_by(pair.certificate):
        raise UnusableError("the CA's certificate is not signed by its own key")
    with _parsing("certificate"):
        extensions = pair.certificate.x509.extensions
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        if not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            raise UnusableError("the key usage of the CA's certificate does not allow signing certificates")
    return pair


def read_bundle(pem: bytes) -> tuple[Certificate, ...]:
    """Return the CAs in a bundle, each once; anything else is skipped."""
    found: dict[str, Certificate] = {}
    for block in _BLOCK.findall(pem):
        try:
            certificate = read_certificate(block)
        except UnusableError:
            continue
        if certificate.is_authority:
            found[certificate.fingerprint] = certificate
    return tuple(found.values())


def bundle(certificates: Iterable[Certificate]) -> bytes:
    return b"".join(certificate.pem for certificate in certificates)


@contextmanager
def _parsing(what: str) -> Iterator[None]:
    # Invalid extensions raise various exceptions without a common class.
    try:
        yield
    except UnusableError:
        raise
    except Exception as error:
        raise UnusableError(f"cannot parse the {what}: {type(error).__name__}") from error


def _certificate(read: x509.Certificate) -> Certificate:
    extensions = read.extensions
    try:
        is_authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = frozenset(names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        hosts = frozenset()
    return Certificate(
        x509=read,
        pem=read.public_bytes(serialization.Encoding.PEM),
        fingerprint=read.fingerprint(hashes.SHA256()).hex(),
        not_before=read.not_valid_before_utc.timestamp(),
        not_after=read.not_valid_after_utc.timestamp(),
        is_authority=is_authority,
        hosts=hosts,
    )


def _builder(key: ec.EllipticCurvePrivateKey, start: float, end: float) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.fromtimestamp(start, datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(end, datetime.UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
