"""Remedies of failed installs and polls, by the messages of the errors themselves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import trustme

from oneagent.common import dynakube, remedies, unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.identifiers import Version
from oneagent.common.oci import hosts, reference
from oneagent.common.oci import image as oci_image
from oneagent.common.tenant import client as tenant_client
from oneagent.common.tenant import inputs
from oneagent.common.unpack import agent_layout
from tests.fakes import tenant as double
from tests.fakes.proxy import Proxy
from tests.fakes.tenant import Fault

VERSION = Version("1.277.0.20230914-094321")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as running:
        (package := tmp_path / "package").write_bytes(b"zip")
        running.release(VERSION, package)
        yield running


def failure(
    folder: Path, url: str, *, version: Version = VERSION, token: str = double.TOKEN, proxy: str = "", **options: Any
) -> str:
    """Return the message of a download that fails."""
    http = http_client.HttpSettings(proxy=proxy, timeout_seconds=5)
    source = tenant_client.package_source(tenant_client.TenantAccess(url, token, http=http), version)
    limits = download.DownloadLimits(attempts=1)
    with pytest.raises(download.DownloadError) as failed:
        download.download(source, folder / "file", cancelled=threading.Event(), limits=limits, **options)
    return str(failed.value)


def test_a_refused_token(server: double.Tenant, tmp_path: Path) -> None:
    message = failure(tmp_path, server.api_url, token="wrong")
    assert remedies.is_token_refused(message)
    cause, remedy = remedies.split(message)
    assert cause.endswith("answered 403: Token is missing required scope: InstallerDownload")
    assert remedy == "check apiToken of the DynaKube's secret: it needs the scope InstallerDownload"


def test_a_token_that_cannot_be_used() -> None:
    with pytest.raises(tenant_client.InvalidTokenError) as empty:
        tenant_client.TenantAccess("https://h/api", "")
    with pytest.raises(tenant_client.InvalidTokenError) as broken:
        tenant_client.TenantAccess("https://h/api", "a\nb")
    manifest = {"metadata": {"name": "shop"}, "spec": {"apiUrl": "https://h/api"}}
    with pytest.raises(tenant_client.InvalidTokenError) as missing:
        inputs.tenant_access(dynakube.from_object(manifest), inputs.Inputs({("Secret", "shop"): None}))
    for error in (empty, broken, missing):
        assert remedies.is_about_token(str(error.value)), error.value
        assert not remedies.is_token_refused(str(error.value))


def test_a_version_that_the_tenant_does_not_have(server: double.Tenant, tmp_path: Path) -> None:
    message = failure(tmp_path, server.api_url, version=Version("1.299.0.20260902-120000"))
    assert remedies.split(message) == (
        message,
        "set codeModulesVersion of the DynaKube to a version that the tenant has, or remove it to follow the tenant's "
        "latest",
    )


def test_a_disk_without_space(server: double.Tenant, tmp_path: Path) -> None:
    message = failure(tmp_path, server.api_url, free=lambda _: 0)
    assert "free space on the disk of the node's data directory" in remedies.split(message)[1]


@pytest.mark.parametrize(
    "message",
    [
        "700 MiB are needed and 5 MiB are free (disk budget none, reserve 256 MiB); every version in the store is in "
        "use or desired",
        "/data/tmp: No space left on device: 12 of the disk's 6500000 inodes are free",
        "/data/tmp: a quota of the disk is used up, of bytes or of inodes",
    ],
)
def test_a_disk_that_is_full_by_another_limit(message: str) -> None:
    assert "free space on the disk of the node's data directory" in remedies.split(message)[1]


def test_another_digest(server: double.Tenant, tmp_path: Path) -> None:
    message = failure(tmp_path, server.api_url, expected_sha256="0" * 64)
    assert "look for what changes the file on its way" in remedies.split(message)[1]


def test_a_server_that_is_not_reached(tmp_path: Path) -> None:
    remedy = remedies.split(failure(tmp_path, "http://127.0.0.1:9/api"))[1]
    assert remedy.startswith("allow connections from the cluster to that server")


def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    message = failure(tmp_path, "http://no-such-tenant.invalid/api")
    assert remedies.split(message)[1] == "correct the server's name, or the DNS of the cluster"


def test_a_proxy_that_refuses(server: double.Tenant, tmp_path: Path) -> None:
    with Proxy("user:right") as proxy:
        message = failure(tmp_path, server.api_url, proxy=f"http://user:wrong@{proxy.address}")
    assert "the user in spec.proxy" in remedies.split(message)[1]


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    with double.Tenant(tls=trustme.CA()) as server:
        cause, remedy = remedies.split(failure(tmp_path, server.api_url))
    assert remedy == "add its authority to trustedCAs"
    assert "its certificate is not trusted" in cause


def test_a_server_that_fails(server: double.Tenant, tmp_path: Path) -> None:
    server.plan("package", Fault(status=500))
    assert remedies.split(failure(tmp_path, server.api_url))[1] == "check that server"


def test_a_registry_that_wants_a_password(server: double.Tenant) -> None:
    host = f"localhost:{server.port}"
    access = oci_image.Access(rules=hosts.Registries(plain_http=frozenset((host,))))
    with (
        oci_image.Image(reference.parse(f"{host}/agent:1"), access) as opened,
        pytest.raises(errors.HttpStatusError) as failed,
    ):
        opened.digest()
    assert remedies.split(str(failed.value))[1].startswith(f"there are no credentials for {host}")


def test_an_image_that_is_not_there() -> None:
    request = httpx.Request("GET", "https://registry.example.com/v2/agent/manifests/1")
    error = errors.from_response(httpx.Response(404, request=request), b"")
    assert remedies.split(str(error))[1].startswith("correct the name of the image")


def test_a_package_for_another_machine() -> None:
    beginning = bytes([0x7F, *b"ELF", 2, 1, 1]) + bytes(9) + bytes([3, 0, 183, 0]) + bytes(44)
    with pytest.raises(unpack.UnsupportedPackageError) as failed:
        agent_layout.check_machine(beginning, "x86_64")
    assert "for the architecture of the nodes" in remedies.split(str(failed.value))[1]


def test_an_image_without_a_signature() -> None:
    message = f"registry.example.com/agent@sha256:{'0' * 64} is not signed with a required key: its signature is by …"
    assert remedies.split(message)[1].startswith("sign the image with one of the required keys")


def test_the_retry_stays_with_the_cause() -> None:
    message = "https://h/a: its certificate is not trusted (self-signed): add its authority to trustedCAs"
    later = "; next try at 2026-01-01T00:00:00Z; trying again (downloading)"
    assert remedies.split(message + later) == (
        "https://h/a: its certificate is not trusted (self-signed)" + later,
        "add its authority to trustedCAs",
    )


def test_another_failure_has_no_remedy_of_its_own() -> None:
    assert remedies.split("not a readable zip: odd") == ("not a readable zip: odd", "")
