"""Each place that decodes a document from outside gets the same hostile ones, and answers with its own error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import msgspec
import pytest

from oneagent.common import foreign_json, package_client, unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.injection import secret
from oneagent.common.oci import cosign_payload, layout, manifest, pull_secret
from oneagent.common.oci import http as oci_http
from oneagent.common.tenant import client
from tests.fakes import hostile_documents
from tests.fakes import tenant as double
from tests.fakes.raw_server import RawServer


class _Any(msgspec.Struct):
    token: str


def fails_with(expected: type[Exception], read: Callable[[], object], document: bytes) -> None:
    """Read a document. Broken ones have to fail; any failure has to be the component's own error."""
    try:
        read()
    except expected as error:
        assert len(str(error)) < 2000
    else:
        assert document not in hostile_documents.BROKEN.values()


@pytest.fixture(params=list(hostile_documents.ALL.values()), ids=list(hostile_documents.ALL))
def document(request: pytest.FixtureRequest) -> bytes:
    return bytes(request.param)


@pytest.fixture(scope="module")
def server() -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        yield server


@pytest.mark.parametrize("endpoint", ["latest", "versions", "connection", "config", "scopes"])
def test_a_tenants_answer(server: double.Tenant, document: bytes, endpoint: double.Endpoint) -> None:
    reads: dict[str, Callable[[client.Tenant], object]] = {
        "latest": client.Tenant.latest_version,
        "versions": client.Tenant.available_versions,
        "connection": client.Tenant.connection,
        "config": client.Tenant.module_config,
        "scopes": client.Tenant.scopes,
    }
    server.plan(endpoint, double.Fault(body=document))
    with client.Tenant(client.TenantAccess(server.api_url, server.token)) as tenant:
        fails_with(errors.HttpError, lambda: reads[endpoint](tenant), document)


def test_an_error_answer_of_a_tenant_or_registry(document: bytes) -> None:
    request = httpx.Request("GET", "https://tenant.example/api")
    error = errors.from_response(httpx.Response(500, request=request), document)
    assert error.is_transient
    assert len(str(error)) < 1000


@pytest.mark.parametrize("value", hostile_documents.DATES)
def test_a_date_to_come_back_at(value: str) -> None:
    seconds = errors.parse_retry_after(value, 1.75e9)
    assert seconds is None or 0 <= seconds <= 3600


def test_a_mirrors_answer(document: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(document)
    package = package_client.Package(DynaKubeName("demo"), Version("1.2.3"), "x86_64")
    with RawServer(lambda connection, _: connection.sendall(head + document)) as server:
        source = download.HttpSource(f"{server.url}/v1/packages?x")
        fails_with(errors.HttpError, lambda: package_client._request_metadata(source, package), document)


PLACES: dict[str, tuple[type[Exception], Callable[[bytes], object]]] = {
    "a registry's token": (errors.HttpError, lambda document: oci_http.decode(document, _Any, "registry")),
    "a manifest": (unpack.PackageError, lambda document: manifest.parse(document, "registry")),
    "an image's configuration": (unpack.PackageError, lambda document: manifest.check_config(document, "registry")),
    "a signature's payload": (
        cosign_payload.NotASignatureError,
        lambda document: cosign_payload.parse_simple(document, "AAAA").read_digests(),
    ),
    "a signature in no base64": (
        cosign_payload.NotASignatureError,
        lambda document: cosign_payload.parse_simple(b"{}", document.decode("latin-1") + "\u0661"),
    ),
    "a bundle": (cosign_payload.NotASignatureError, cosign_payload.parse_bundle),
    "an injection Secret": (secret.InjectionSecretError, secret.decode),
    "a pull secret": (
        http_client.InvalidSettingsError,
        lambda document: pull_secret.parse(document.decode("utf-8", "surrogateescape"), "the Secret"),
    ),
    "the decoder itself": (foreign_json.DocumentError, lambda document: foreign_json.decode(document, _Any)),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_others_decode(place: str, document: bytes) -> None:
    expected, read = PLACES[place]
    fails_with(expected, lambda: read(document), document)


def test_an_index_on_the_nodes_disk(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / "index.json").write_bytes(document)

    def resolve() -> str:
        with layout.Layout(tmp_path) as opened:
            return opened.resolve_tag("1")

    fails_with(unpack.PackageError, resolve, document)


def test_the_state_of_a_download_that_broke_off(tmp_path: Path, document: bytes) -> None:
    (tmp_path / "package.zip.part").write_bytes(b"xx")
    (tmp_path / "package.zip.part.json").write_bytes(document)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with RawServer(lambda connection, _: connection.sendall(answer)) as server:
        into = tmp_path / "package.zip"
        download.download(download.HttpSource(server.url), into, cancelled=threading.Event())
        assert into.read_bytes() == b"ok"


class TestATenantsConfiguration:
    def properties(self, count: int, value: str = "") -> bytes:
        part = {"section": "general", "key": "k", "value": value}
        return msgspec.json.encode({"revision": 1, "properties": [part] * count})

    def read(self, server: double.Tenant, body: bytes) -> client.ModuleConfig | None:
        server.plan("config", double.Fault(body=body))
        with client.Tenant(client.TenantAccess(server.api_url, server.token)) as tenant:
            return tenant.module_config()

    def test_may_have_20000_properties(self, server: double.Tenant) -> None:
        read = self.read(server, self.properties(20_000))
        assert read is not None
        assert len(read.properties) == 20_000

    def test_has_no_more(self, server: double.Tenant) -> None:
        with pytest.raises(errors.UnexpectedResponseError, match="properties"):
            self.read(server, self.properties(20_001))

    def test_has_no_more_than_2_mib(self, server: double.Tenant) -> None:
        with pytest.raises(errors.UnexpectedResponseError, match="more than 2,097,152 bytes"):
            self.read(server, self.properties(1, "x" * (2 << 20)))
