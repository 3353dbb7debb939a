"""Bad tenants, and the honest ones beside them: who waits, and for how long."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import packages, provisioner, raw_server
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, FakeDynaKubeSource, Provisioning, eventually, manifest
from tests.fakes.raw_server import RawServer

VERSION = packages.VERSION
BAD = 4


@pytest.fixture
def hanging() -> Iterator[list[RawServer]]:
    """Servers that answer all requests with a byte now and then."""

    def script(connection: socket.socket, _request: bytes) -> None:
        raw_server.drip(connection, b"HTTP/1.1 200 OK\r\nX: ")

    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(RawServer(script)) for _ in range(BAD)]


@pytest.fixture
def large_package(tmp_path: Path) -> Path:
    return packages.build(tmp_path / "large.zip", OTHER, filler=4 << 20)


@pytest.fixture
def slow(large_package: Path) -> Iterator[list[double.Tenant]]:
    """Tenants that send packages of versions of their own, not slowly enough to be cut off."""
    with contextlib.ExitStack() as stack:
        tenants = [stack.enter_context(double.Tenant()) for _ in range(BAD)]
        for tenant in tenants:
            tenant.release(OTHER, large_package)
            tenant.bytes_per_second = 30_000
        yield tenants


class TestAnHonestTenant:
    def test_is_polled_beside_four_that_hang(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, hanging: list[RawServer]
    ) -> None:
        source.put(*(manifest(f"bad{number}", f"{bad.url}/api") for number, bad in enumerate(hanging)))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: all(bad.requests for bad in hanging))
            source.put(manifest("demo", server.api_url))
            p.wait_until(lambda: p.is_ready(VERSION))
            assert all(bad.open_connections == 1 for bad in hanging)

    def test_installs_beside_four_that_send_slowly(
        self,
        tmp_path: Path,
        server: double.Tenant,
        source: FakeDynaKubeSource,
        slow: list[double.Tenant],
        large_package: Path,
    ) -> None:
        versions = [f"1.280.0.20231001-00000{number}" for number in range(BAD)]
        for number, bad in enumerate(slow):
            bad.release(versions[number], large_package)
            source.put(manifest(f"bad{number}", bad.api_url, version=versions[number]))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: sum(bad.count("package") for bad in slow) >= 3)
            source.put(manifest("demo", server.api_url))
            p.wait_until(lambda: p.is_ready(VERSION), seconds=30)
            assert not any(p.is_ready(version, f"bad{number}") for number, version in enumerate(versions))


class TestChangedSettings:
    def test_are_asked_at_once_while_the_former_tenant_hangs(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, hanging: list[RawServer]
    ) -> None:
        source.put(manifest("demo", f"{hanging[0].url}/api"))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: hanging[0].requests)
            corrected = time.monotonic()
            source.put(manifest("demo", server.api_url))
            p.wait_until(lambda: server.count("connection"))
            assert time.monotonic() - corrected < 15
            p.wait_until(lambda: p.is_ready(VERSION))
            eventually(lambda: hanging[0].open_connections == 0)

    def test_end_a_slow_download_of_the_former_ones(
        self,
        tmp_path: Path,
        server: double.Tenant,
        source: FakeDynaKubeSource,
        slow: list[double.Tenant],
        large_package: Path,
    ) -> None:
        slow[0].release(VERSION, large_package)
        source.put(manifest("demo", slow[0].api_url, version=VERSION))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: slow[0].count("package"))
            source.put(manifest("demo", server.api_url, version=VERSION))
            p.wait_until(lambda: p.is_ready(VERSION), seconds=10)


class TestAnErrorThatNobodyExpected:
    def test_of_an_install_is_in_the_condition_and_is_retried(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        calls = 0

        def failpoint(name: str) -> None:
            nonlocal calls
            if name == "downloaded":
                calls += 1
                if calls == 1:
                    raise RecursionError("secret")

        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source, failpoint=failpoint) as p:
            p.wait_until(lambda: "internal error (RecursionError)" in p.condition(), what=p.condition)
            assert "secret" not in p.condition()
            p.wait_until(lambda: p.is_ready(VERSION))

    def test_of_a_poll_is_in_the_condition_and_is_retried(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = 0

        def fail(*_arguments: object, **_named: object) -> None:
            nonlocal calls
            calls += 1
            raise RecursionError("secret")

        monkeypatch.setattr(FakeDynaKubeSource, "secret", fail)
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "100ms"}))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "RecursionError" in p.condition(), what=p.condition)
            p.wait_until(lambda: calls >= 3)
            monkeypatch.undo()
            p.wait_until(lambda: p.is_ready(VERSION))


class TestSigterm:
    def test_ends_polls_and_downloads_within_two_seconds(
        self, tmp_path: Path, hanging: list[RawServer], slow: list[double.Tenant]
    ) -> None:
        with provisioner.running(tmp_path) as process:
            process.set_dynakubes(
                manifest("hangs", f"{hanging[0].url}/api"), manifest("slow", slow[0].api_url, version=OTHER)
            )
            eventually(lambda: hanging[0].requests and slow[0].count("package"), what=process.log.read_text)
            began = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - began < 2.5, "two seconds, and the end of Python"
