"""How a tenant is asked: seldom, by the DynaKube's way out, and not before it wants to be."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
import trustme

from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, manifest
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
