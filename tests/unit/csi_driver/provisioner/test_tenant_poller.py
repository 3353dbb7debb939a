"""How a tenant is asked: seldom, by the DynaKube's way out, and not before it wants to be."""

from __future__ import annotations

import datetime
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from oneagent.common import dynakube
from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import injection
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant.image_resolver import MemorySignatures
from oneagent.csi_driver.provisioner.tenant_poller import TenantPoller
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, eventually, manifest
from tests.fakes.proxy import Proxy


class TestATenant:
    def test_is_left_alone_between_polls(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, dynatraceApiRequestThreshold=1))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            for _ in range(100):
                p.provisioner.reconcile()
            time.sleep(0.3)
        asked = {name: server.count(name) for name in ("latest", "connection", "config", "package")}
        assert asked == {"latest": 1, "connection": 1, "config": 1, "package": 1}

    @pytest.mark.parametrize("status", [429, 503])
    def test_that_says_later_is_asked_later(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, status: int
    ) -> None:
        server.plan("connection", double.Fault(status=status, headers={"Retry-After": "1"}))
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "10ms"}))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: server.count("connection") == 1)
            refused = time.monotonic()
            p.wait_until(lambda: f"answered {status}" in p.condition(), what=p.condition)
            time.sleep(0.7)
            p.provisioner.wake()
            assert server.count("connection") == 1
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            assert time.monotonic() - refused >= 0.9

    def test_that_says_in_a_hundred_years_is_asked_within_an_hour_and_the_condition_tells_when(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        server.plan("connection", double.Fault(status=429, headers={"Retry-After": "3153600000"}))
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "next try at " in p.condition(), what=p.condition)
            told = datetime.datetime.fromisoformat(p.condition().rpartition("next try at ")[2])
            assert told.timestamp() <= time.time() + 3600

    def test_that_refuses_the_token_is_asked_with_the_new_one(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "200ms"}), token="wrong")
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "check apiToken" in p.condition(), what=p.condition)
            assert "wrong" not in p.condition()
            source.secrets["demo"] = {"apiToken": server.token}
            p.wait_until(lambda: p.is_ready(packages.VERSION))

    def test_behind_a_proxy_and_with_an_authority_of_its_own_is_reached(
        self, tmp_path: Path, source: FakeDynaKubeSource, package: Path
    ) -> None:
        authority = trustme.CA()
        source.config_maps["authorities"] = {"certs": authority.cert_pem.bytes().decode()}
        with double.Tenant(tls=authority) as server, Proxy("user:secret") as proxy:
            server.release(packages.VERSION, package)
            source.secrets["proxy"] = {"proxy": f"http://user:secret@{proxy.address}"}
            source.put(
                manifest("demo", server.api_url, trustedCAs="authorities", proxy={"valueFrom": "proxy"}),
                manifest("untrusting", server.api_url),
            )
            with Provisioning(tmp_path, source) as p:
                p.wait_until(lambda: p.is_ready(packages.VERSION))
                p.wait_until(lambda: "not trusted" in p.condition("untrusting"), what=lambda: p.condition("untrusting"))
            assert set(proxy.seen) == {f"CONNECT 127.0.0.1:{server.port}"}
            assert len(proxy.seen) >= 2, "one for the questions and one for the package"

    def test_is_reached_by_the_clusters_proxy_and_authorities_if_its_dynakube_names_none(
        self, tmp_path: Path, source: FakeDynaKubeSource, package: Path
    ) -> None:
        authority = trustme.CA()
        source.config_maps["company"] = {"certs": authority.cert_pem.bytes().decode()}
        with double.Tenant(tls=authority) as server, Proxy("user:secret") as proxy:
            server.release(packages.VERSION, package)
            source.secrets["company-proxy"] = {"proxy": f"http://user:secret@{proxy.address}"}
            source.put(manifest("demo", server.api_url))
            flags = ("--default-proxy-secret=company-proxy", "--default-trusted-cas=company")
            with Provisioning(tmp_path, source, *flags) as p:
                p.wait_until(lambda: p.is_ready(packages.VERSION), what=p.condition)
            assert set(proxy.seen) == {f"CONNECT 127.0.0.1:{server.port}"}

    @pytest.mark.parametrize(
        ("no_proxy", "by_proxy"), [("127.0.0.2", [True, False]), ("*", [False, False]), ("10.0.0.0/8", [True, True])]
    )
    def test_is_reached_directly_where_no_proxy_names_it(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path, no_proxy: str,
        by_proxy: list[bool],
    ) -> None:  # fmt: skip
        with double.Tenant(host="127.0.0.2") as other, Proxy() as proxy:
            other.release(packages.VERSION, package)
            settings: dict[str, Any] = {
                "proxy": {"value": f"http://{proxy.address}"},
                "annotations": {"no-proxy": f"other.example, {no_proxy}"},
            }
            source.put(manifest("demo", server.api_url, **settings), manifest("other", other.api_url, **settings))
            with Provisioning(tmp_path, source) as p:
                p.wait_until(lambda: all(p.is_ready(packages.VERSION, name) for name in ("demo", "other")))
            seen = "\n".join(proxy.seen)
            assert [f"{tenant.api_url}/v1/deployment" in seen for tenant in (server, other)] == by_proxy
            assert [
                f"{tenant.api_url}/v1/deployment/installer/agent/unix/paas/version/" in seen
                for tenant in (server, other)
            ] == by_proxy

    def test_is_not_polled_past_a_proxy_that_is_missing(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        where = "spec.proxy.valueFrom: the Secret proxy"
        source.put(
            manifest("demo", server.api_url, proxy={"valueFrom": "proxy"}, annotations={"poll-interval": "100ms"})
        )
        with Provisioning(tmp_path, source) as p:
            missing = f"{where} does not exist: create it with the proxy's URL at the key proxy"
            p.wait_until(lambda: p.condition() == missing, what=p.condition)
            source.secrets["proxy"] = {"url": "http://127.0.0.1:1"}
            no_key = f"{where} has nothing at the key proxy: put the proxy's URL there"
            p.wait_until(lambda: p.condition() == no_key, what=p.condition)
        assert server.requests == []

    def test_is_not_polled_without_the_certificates_that_the_dynakube_names(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        where = "spec.trustedCAs: the ConfigMap authorities"
        source.put(manifest("demo", server.api_url, trustedCAs="authorities", annotations={"poll-interval": "100ms"}))
        with Provisioning(tmp_path, source) as p:
            missing = f"{where} does not exist: create it with PEM certificates at the key certs"
            p.wait_until(lambda: p.condition() == missing, what=p.condition)
            source.config_maps["authorities"] = {"ca.crt": "PEM"}
            no_key = f"{where} has nothing at the key certs: put PEM certificates there"
            p.wait_until(lambda: p.condition() == no_key, what=p.condition)
        assert server.requests == []

    def test_gives_no_package_past_a_proxy_that_is_missing(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, version=packages.VERSION, proxy={"valueFrom": "proxy"}))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "can't be installed: spec.proxy.valueFrom: the Secret proxy" in p.condition())
        assert server.requests == []

    def test_is_reached_by_the_proxy_s_value_if_both_are_given(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        with Proxy() as proxy:
            source.secrets["proxy"] = {"proxy": "http://127.0.0.1:1"}
            both = {"value": f"http://{proxy.address}", "valueFrom": "proxy"}
            source.put(manifest("demo", server.api_url, proxy=both))
            with Provisioning(tmp_path, source) as p:
                p.wait_until(lambda: p.is_ready(packages.VERSION), what=p.condition)
            assert proxy.seen

    def test_that_hangs_delays_no_other(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        with double.Tenant() as hanging:
            hanging.plan("connection", double.Fault(stall_after=1))
            source.put(manifest("a", hanging.api_url), manifest("b", server.api_url))
            with Provisioning(tmp_path, source) as p:
                p.wait_until(lambda: p.is_ready(packages.VERSION, "b"), 3)
                assert "being polled" in p.condition("a")
                hanging.closing.set()


class TestAnEditedDynaKube:
    def test_is_asked_for_at_once(self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource) -> None:
        source.put(manifest("demo", "http://127.0.0.1:1/api"))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "cannot connect" in p.condition())
            source.put(manifest("demo", server.api_url))
            p.wait_until(lambda: p.is_ready(packages.VERSION), 3)


class Reads(FakeDynaKubeSource):
    """Counts the reads of the Secret with headers."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.secrets["headers"] = {"authorization": "one"}
        self.config_maps["ca"] = {"ca.crt": trustme.CA().cert_pem.bytes().decode()}

    def secret(self, name: str) -> Mapping[str, str]:
        self.reads += name == "headers"
        return super().secret(name)


class TestAnOpenTelemetryInjection:
    NAME = DynaKubeName("otelinj.shop")

    def manifest(self, package: str, inputs: str) -> dict[str, Any]:
        exporter = {"headersSecret": "headers", "tls": {"configMapName": "ca", "ca_file": "ca.crt"}}
        obj = {
            "kind": "OpenTelemetryInjection",
            "metadata": {"name": "shop"},
            "spec": {"package": package, "exporter": exporter},
            "status": {"codeModules": {injection.INPUTS: inputs}},
        }
        return injection.normalize(obj)

    def test_has_its_changed_headers_and_ca_as_soon_as_the_operator_has_seen_the_change(self, tmp_path: Path) -> None:
        source, package = Reads(), tmp_path / "otel.zip"
        with zipfile.ZipFile(package, "w") as archive:
            packages.write(archive, opentelemetry.PRELOAD_LIBRARY, b"\x7fELF" * 200, 0o100755)
        source.put(self.manifest(f"file://{package}", "1"))

        def files(p: Provisioning) -> tuple[str, str]:
            row = p.row(self.NAME)
            if row is None or not row.layer:
                return "", ""
            layer = p.data.config_layer(row.tenant, row.layer)
            return tuple((layer / path).read_text() for path in opentelemetry.PROFILE.config_files)  # type: ignore[return-value]

        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: "authorization=one" in files(p)[0], what=lambda: p.condition(self.NAME))
            assert files(p)[1] == source.config_maps["ca"]["ca.crt"]
            source.secrets["headers"] = {"authorization": "two"}
            source.config_maps["ca"] = {"ca.crt": trustme.CA().cert_pem.bytes().decode()}
            for _ in range(50):
                p.provisioner.reconcile()
            assert source.reads == 1
            source.put(self.manifest(f"file://{package}", "2"))
            p.wait_until(lambda: "authorization=two" in files(p)[0])
            assert files(p)[1] == source.config_maps["ca"]["ca.crt"]
            for _ in range(50):
                p.provisioner.reconcile()
            assert source.reads == 2

    def test_is_read_again_by_each_node_at_another_time_and_at_once_while_a_pod_waits(self) -> None:
        source = Reads()
        poller = TenantPoller(
            source, Registries(), MemorySignatures(), lambda: None, jitter_seconds=45.0, draw=lambda: 1.0
        )

        def poll(inputs: str, *, pod_waits: bool = False) -> None:
            poller.poll_if_due(dynakube.from_object(self.manifest("file:///a.zip", inputs)), pod_waits=pod_waits)

        poll("1")
        eventually(lambda: poller.state(self.NAME))
        source.secrets["headers"] = {"authorization": "two"}
        for _ in range(5):
            poll("2")
        assert source.reads == 1
        poll("2", pod_waits=True)
        eventually(lambda: poller.state(self.NAME).exporter_headers == {"authorization": "two"})  # type: ignore[union-attr]
        poll("2", pod_waits=True)
        # A status without it, as while the object cannot be read, is no news.
        poll("", pod_waits=True)
        time.sleep(0.1)
        assert source.reads == 2
