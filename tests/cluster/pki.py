"""The cluster's certificate authority, and what it signs: server and client certificates, kubeconfigs."""

from __future__ import annotations

import datetime
import ipaddress
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_DAY: Final = datetime.timedelta(days=1)


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key, also written to a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return key


class Authority:
    """Signs for one cluster; everything lies in one folder as `<name>.crt` and `<name>.key`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._key = new_key(folder / "ca.key")
        self._name = _name("cluster-ca", ())
        ca = self._certificate(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0), ())
        self.certificate = self._write("ca", ca)

    def issue(
        self, name: str, *, common_name: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """Certificate and key for a user of the API server (its groups) or a server (its hosts)."""
        key = new_key(self.folder / f"{name}.key")
        subject = _name(common_name, groups)
        certificate = self._certificate(subject, key, x509.BasicConstraints(ca=False, path_length=None), hosts)
        return self._write(name, certificate), self.folder / f"{name}.key"

    def kubeconfig(self, name: str, server: str, *, common_name: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with everything in it, so that the file can be carried elsewhere."""
        certificate, key = self.issue(name, common_name=common_name, groups=groups)
        path = self.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(_kubeconfig(name, server, self.certificate, certificate, key)))
        return path

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        constraints: x509.BasicConstraints,
        hosts: Sequence[str],
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 30 * _DAY)
            .add_extension(constraints, critical=True)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        path = self.folder / f"{name}.crt"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path


def _name(common_name: str, groups: Sequence[str]) -> x509.Name:
    organizations = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _kubeconfig(name: str, server: str, authority: Path, certificate: Path, key: Path) -> dict[str, object]:
    def inline(path: Path) -> str:
        return b64encode(path.read_bytes()).decode()

    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority-data": inline(authority)}}],
        "users": [
            {"name": name, "user": {"client-certificate-data": inline(certificate), "client-key-data": inline(key)}}
        ],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
        "current-context": "e2e",
    }
