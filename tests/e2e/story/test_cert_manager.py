"""The story with certificates from cert-manager, whose controllers run beside the cluster.

They are those of a release, built by `make cert-manager`. A certificate and its CA are replaced by deleting their
Secrets, which is how administrators do it.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.processes import Program
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story.administrator import Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.story.conftest import Publish
from tests.e2e.webhook.kubectl_plugin import Plugin
from tests.fakes.tenant import Tenant

VERSION: Final = "1.277.0.20230914-094321"
CERTIFICATE: Final = "oneagent-webhook-certs"
AUTHORITY: Final = "oneagent-webhook-issuer"
_FOLDER: Final = Path("tests/certmanager")
_PROGRAM: Final = _FOLDER / "bin" / "cert-manager"
_MODULE: Final = "github.com/cert-manager/cert-manager"


@pytest.fixture
def cert_manager(cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> Iterator[None]:
    """Its definitions and its controllers; gone after the test."""
    if not _PROGRAM.exists():
        pytest.skip("cert-manager is not built: run make cert-manager")
    definitions = sorted((_module() / "deploy" / "crds").glob("*cert-manager.io_*.yaml"))
    names = [argument for path in definitions for argument in ("-f", str(path))]
    kubectl("apply", "--server-side", *names)
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    log = tmp_path / "cert-manager.log"
    command: list[str | Path] = [_PROGRAM, f"--kubeconfig={cluster.control_plane.admin}"]
    program = Program("cert-manager", command, log, lambda: "controllers started" in log.read_text())
    program.start()
    try:
        program.wait_ready()
        yield
    finally:
        program.stop()
        kubectl("delete", *names)


def _module() -> Path:
    """Where the module is, of which the program was built."""
    find = ["go", "list", "-m", "-f", "{{.Dir}}", _MODULE]
    return Path(subprocess.run(find, cwd=_FOLDER, capture_output=True, text=True, check=True).stdout.strip())


def certificates(kubectl: Kubectl, secret: str, key: str) -> list[x509.Certificate]:
    """Those of a Secret; none if it is not there."""
    template = f"jsonpath={{.data.{key.replace('.', chr(92) + '.')}}}"
    text = kubectl("-n", NAMESPACE, "get", "--ignore-not-found", "secret", secret, "-o", template)
    return x509.load_pem_x509_certificates(base64.b64decode(text)) if text else []


def replaced(kubectl: Kubectl, secret: str, wait_for: WaitFor) -> x509.Certificate:
    """Delete a Secret of cert-manager; return the certificate in the one that it makes."""
    (before, *_) = certificates(kubectl, secret, "tls.crt")
    kubectl("-n", NAMESPACE, "delete", "secret", secret)
    (now, *_) = wait_for(lambda: certificates(kubectl, secret, "tls.crt"), f"there is another {secret}", within=60)
    assert now != before
    return now


def test_pods_are_injected_while_certificate_and_authority_are_replaced(
    cluster: Cluster, kubectl: Kubectl, cert_manager: None, user: Administrator, shop: ShopNamespace,
    dynatrace: Tenant, publish: Publish, tmp_path: Path, wait_for: WaitFor,
) -> None:  # fmt: skip
    publish(VERSION)
    user.installs("certificates.issuer=cert-manager")
    user.monitors(dynatrace.api_url, version="v1beta1")
    shop.has_agent(shop.starts("cart"), VERSION)
    (authority,) = certificates(kubectl, AUTHORITY, "tls.crt")
    (leaf, *_) = certificates(kubectl, CERTIFICATE, "tls.crt")
    leaf.verify_directly_issued_by(authority)
    assert not kubectl("-n", NAMESPACE, "get", "service", "oneagent-operator", "--ignore-not-found"), "no packages"

    replaced(kubectl, CERTIFICATE, wait_for)
    wait_for(shop.would_be_injected, "the webhook serves the new certificate")
    authority = replaced(kubectl, AUTHORITY, wait_for)
    leaf = replaced(kubectl, CERTIFICATE, wait_for)
    leaf.verify_directly_issued_by(authority)
    wait_for(shop.would_be_injected, "the API server trusts the new authority")
    shop.has_agent(shop.starts("checkout"), VERSION)
    folder = tmp_path / "bin"
    folder.mkdir()
    plugin = Plugin(cluster, folder)
    wait_for(lambda: not plugin.findings(), f"nothing is found, not {plugin.findings()}", 60, 1)
    shop.ends("--all")
