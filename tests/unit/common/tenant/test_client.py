"""What is asked of a tenant, and what is made of its answers."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common import identifiers
from oneagent.common.agents.oneagent import ruxitagentproc
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.tenant import client as tenant_client
from tests.fakes import tenant as double
from tests.fakes.tenant import Fault


@pytest.fixture
def server(tmp_path: Path) -> Iterator[double.Tenant]:
    (tmp_path / "package").write_bytes(b"zip")
    with double.Tenant() as running:
        for version in ("1.99.0.20230101-000000", "1.277.0.20230914-094321", "1.265.0.20230101-000000"):
            running.release(version, tmp_path / "package")
        yield running


@pytest.fixture
def client(server: double.Tenant) -> Iterator[tenant_client.Tenant]:
    with tenant_client.Tenant(access(server)) as opened:
        yield opened


def access(server: double.Tenant, paas_token: str = "", network_zone: str = "") -> tenant_client.TenantAccess:
    return tenant_client.TenantAccess(server.api_url, server.token, paas_token=paas_token, network_zone=network_zone)


def test_the_latest_version_is_asked_for_this_kind_of_machine(
    server: double.Tenant, client: tenant_client.Tenant
) -> None:
    assert client.latest_version(flavor="multidistro", machine="aarch64") == "1.277.0.20230914-094321"
    seen = server.requests[-1]
    assert seen.query == {"flavor": ["multidistro"], "arch": ["arm"], "bitness": ["64"]}
    assert seen.headers["Authorization"] == f"Api-Token {server.token}"
    assert seen.headers["Accept"] == "application/json"
    assert seen.headers["User-Agent"].startswith("oneagent-csi/")


def test_a_version_that_is_released_meanwhile_is_the_latest(
    server: double.Tenant, client: tenant_client.Tenant, tmp_path: Path
) -> None:
    server.release("1.300.0.20240101-000000", tmp_path / "package")
    assert client.latest_version() == "1.300.0.20240101-000000"
    assert client.available_versions()[-1] == "1.300.0.20240101-000000"
    assert len(client.available_versions()) == 4


def test_connection_info_names_the_tenant_and_hides_its_token(
    server: double.Tenant, client: tenant_client.Tenant
) -> None:
    info = client.connection()
    assert info is not None
    assert (info.tenant, info.tenant_token) == (server.tenant, server.tenant_token)
    assert info.endpoints == tuple(server.endpoints)
    assert server.tenant_token not in repr(info)
    assert server.requests[-1].query == {"defaultZoneFallback": ["true"]}


def test_the_network_zone_is_passed_on_and_one_without_endpoints_is_no_error(server: double.Tenant) -> None:
    server.plan("connection", Fault(status=400))
    with tenant_client.Tenant(access(server, network_zone="zone-1")) as client:
        assert client.connection() is None
    assert server.requests[-1].query["networkZone"] == ["zone-1"]


def test_module_configuration_is_only_given_when_it_changed(
    server: double.Tenant, client: tenant_client.Tenant
) -> None:
    server.revision = 3551371520520734114
    server.properties = [{"section": "general", "key": "java", "value": "on"}]
    config = client.module_config(host_group="shop")
    assert config == tenant_client.ModuleConfig(server.revision, (ruxitagentproc.Property("general", "java", "on"),))
    assert server.requests[-1].query["hostgroup"] == ["shop"]
    assert client.module_config(server.revision) is None
    server.plan("config", Fault(status=404))
    assert client.module_config() is None


def test_images_of_a_public_registry_are_those_of_the_host_that_is_wanted(
    server: double.Tenant, client: tenant_client.Tenant
) -> None:
    server.images = {"oneagent": "public.ecr.aws/dynatrace/oneagent:1", "codemodules": "docker.example/dynatrace/cm:1"}
    server.images["eec"] = "no image at all"
    assert client.public_images() == {kind: server.images[kind] for kind in ("oneagent", "codemodules")}
    assert server.requests[-1].query == {}
    assert client.public_images("public.ecr.aws") == {"oneagent": "public.ecr.aws/dynatrace/oneagent:1"}
    assert server.requests[-1].query == {"registry": ["public.ecr.aws"]}


@pytest.mark.parametrize(
    "image", ["", "Not An Image", "public.ecr.awss/dynatrace/oneagent:1", "https://public.ecr.aws/a"]
)
def test_an_image_of_another_host_or_none_at_all_is_refused(
    server: double.Tenant, client: tenant_client.Tenant, image: str
) -> None:
    body = json.dumps({"components": [{"type": "oneagent", "imageUri": image}]}).encode()
    server.images = {"oneagent": "public.ecr.aws/a:1"}
    server.plan("images", Fault(body=body))
    message = r"oneagent is .*: not an image of the registry public\.ecr"
    with pytest.raises(errors.UnexpectedResponseError, match=message):
        client.public_images("public.ecr.aws")


@pytest.mark.parametrize(
    ("machine", "arch"), [("x86_64", "x86"), ("aarch64", "arm"), ("ppc64le", "ppcle"), ("s390x", "s390")]
)
def test_a_package_is_fetched_for_this_kind_of_machine(server: double.Tenant, machine: str, arch: str) -> None:
    source = tenant_client.package_source(
        access(server, paas_token="paas"), identifiers.Version("1.2.3"), technologies=("java", "nginx"), machine=machine
    )
    url = urllib.parse.urlsplit(source.url)
    assert url.path.endswith("/v1/deployment/installer/agent/unix/paas/version/1.2.3")
    assert urllib.parse.parse_qs(url.query) == {
        "flavor": ["default"],
        "arch": [arch],
        "bitness": ["64"],
        "skipMetadata": ["true"],
        "include": ["java", "nginx"],
    }
    assert source.headers["Authorization"] == "Api-Token paas"
    assert "paas_token" not in repr(source) and "Api-Token" not in repr(source)


def test_there_is_no_agent_for_other_machines(server: double.Tenant) -> None:
    with pytest.raises(http_client.InvalidSettingsError, match=r"riscv64.*x86_64"):
        tenant_client.package_source(access(server), identifiers.Version("1.2.3"), machine="riscv64")


@pytest.mark.parametrize("version", ["../../etc", ".hidden", "a/b", "", "x" * 129, "a\n", "a b"])
def test_what_cannot_be_a_folder_name_is_no_version(server: double.Tenant, version: str) -> None:
    with pytest.raises(http_client.InvalidSettingsError, match="version"):
        tenant_client.package_source(access(server), identifiers.Version(version), machine="x86_64")
    server.plan("latest", Fault(body=json.dumps({"latestAgentVersion": version}).encode()))
    with (
        tenant_client.Tenant(access(server)) as client,
        pytest.raises(errors.UnexpectedResponseError, match="latestAgentVersion"),
    ):
        client.latest_version()


def test_what_cannot_be_a_folder_name_is_no_tenant(server: double.Tenant, client: tenant_client.Tenant) -> None:
    server.tenant = "../escape"
    with pytest.raises(errors.UnexpectedResponseError, match="tenantUUID"):
        client.connection()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"latestAgentVersion": 7}', b"\xff\xfe", b"{"])
def test_garbage_is_called_garbage(server: double.Tenant, client: tenant_client.Tenant, body: bytes) -> None:
    server.plan("latest", Fault(body=body))
    with pytest.raises(errors.UnexpectedResponseError, match="not the documented response"):
        client.latest_version()


def test_an_answer_without_an_end_is_not_read_to_the_end(server: double.Tenant, client: tenant_client.Tenant) -> None:
    server.plan("config", Fault(body=b" " * (tenant_client.MAX_CONFIG_BYTES + 1)))
    with pytest.raises(errors.UnexpectedResponseError, match="more than"):
        client.module_config()


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("https://tenant.example", "must end in /api"),
            ("https://tenant.example/api/", "must end in /api"),
            ("https://tenant.example/x?/api", "must end in /api"),
            ("ftp://tenant.example/api", "is needed"),
            ("tenant.example/api", "is needed"),
            ("https://user:hunter2@tenant.example/api", "without a user"),
            ("https://tenant.example:port/api", "not a URL"),
        ],
    )
    def test_an_address_that_cannot_be_one_is_refused_with_the_reason(self, url: str, said: str) -> None:
        with pytest.raises(http_client.InvalidSettingsError, match=f"apiUrl: .*{said}") as refused:
            tenant_client.TenantAccess(url, "token")
        assert "hunter2" not in str(refused.value)

    @pytest.mark.parametrize("token", ["", "with space", "hunter2\n", "umläut", "nul\0"])
    def test_a_token_that_cannot_be_one_is_refused_and_not_shown(self, token: str) -> None:
        with pytest.raises(http_client.InvalidSettingsError, match="apiToken") as refused:
            tenant_client.TenantAccess("https://tenant.example/api", token)
        assert not token or token.strip() not in str(refused.value)

    @pytest.mark.parametrize(
        "proxy", ["socks5://u:hunter2@h:1", "u:hunter2@host:1", "http://", "http://u:hunter2@h:port"]
    )
    def test_a_proxy_that_cannot_be_one_is_refused_and_not_shown(self, proxy: str) -> None:
        with pytest.raises(http_client.InvalidSettingsError, match="proxy: ") as refused:
            http_client.HttpSettings(proxy=proxy)
        assert "hunter2" not in str(refused.value)

    def test_no_secret_is_in_the_repr(self) -> None:
        shown = repr(
            tenant_client.TenantAccess(
                "https://tenant.example/api",
                "hunter1",
                paas_token="hunter2",
                http=http_client.HttpSettings(proxy="http://u:hunter3@h:1", trusted_cas="hunter4"),
            )
        )
        assert "hunter" not in shown
