"""The mirror comes before the tenant, and none of its failures stops an install."""

from __future__ import annotations

import dataclasses
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common import package_client
from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.csi_driver.provisioner import main
from oneagent.operator.package_server import handlers as servers
from tests.fakes import package_server as fakes
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, FakeDynaKubeSource, Provisioning, eventually, list_corrupt, manifest
from tests.unit.csi_driver.provisioner.test_installer import inside

VERSION = Version(packages.VERSION)


@pytest.fixture
def upstream(package: Path) -> Iterator[double.Tenant]:
    """The tenant of the mirror, apart from the node's, to count the requests of each."""
    with double.Tenant() as upstream:
        upstream.release(VERSION, package)
        yield upstream


@pytest.fixture
def serving(tmp_path: Path, upstream: double.Tenant) -> Iterator[fakes.RunningPackageServer]:
    with fakes.RunningPackageServer(tmp_path / "endpoint", limits=servers.RequestLimits(wait_seconds=0.2)) as serving:
        serving.set_desired(fakes.desired_version(VERSION, upstream.api_url))
        yield serving


def flags(serving: fakes.RunningPackageServer) -> tuple[str, ...]:
    return (
        f"--package-mirror={serving.url}",
        f"--package-mirror-ca={serving.ca_file}",
        f"--package-mirror-token={serving.token_file}",
    )


def shorten_waits(p: Provisioning, away: float = 0.5, pending: float = 1.0) -> None:
    """Shorten the time that the provisioner waits for its mirror."""
    fetcher = p.provisioner.installer.fetcher
    mirror = fetcher.sources.mirror
    assert mirror is not None
    limits = package_client.WaitLimits(away_seconds=away, pending_seconds=pending)
    fetcher.sources = dataclasses.replace(fetcher.sources, mirror=dataclasses.replace(mirror, wait=limits))


def results(p: Provisioning) -> dict[str, float]:
    """Return the number of downloads from the mirror, by result."""
    (family,) = p.metrics.mirror.collect()
    return {each.labels["result"]: each.value for each in family.samples if each.name.endswith("_total")}


class TestAMirror:
    def test_is_asked_and_the_tenant_is_not(
        self,
        tmp_path: Path,
        server: double.Tenant,
        upstream: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
    ) -> None:
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert results(p) == {"ok": 1}
            p.wait_until(lambda: not list(p.data.tmp.iterdir()))
        assert (server.count("package"), upstream.count("package")) == (0, 1)
        assert list_corrupt(p.data) == []

    def test_is_waited_for_while_it_fetches_the_version_itself(
        self,
        tmp_path: Path,
        server: double.Tenant,
        upstream: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
    ) -> None:
        upstream.bytes_per_second = 4_000_000
        upstream.release(OTHER, packages.build(tmp_path / "large.zip", OTHER, filler=4 << 20))
        serving.set_desired(fakes.desired_version(OTHER, upstream.api_url))
        source.put(manifest("demo", server.api_url, version=OTHER))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            p.wait_until(lambda: p.is_ready(OTHER), 15, what=p.condition)
        assert serving.counted("package_requests_total", outcome="pending") > 0
        assert server.count("package") == 0

    def test_serves_while_the_node_can_read_no_secret(
        self, tmp_path: Path, server: double.Tenant, serving: fakes.RunningPackageServer, source: FakeDynaKubeSource
    ) -> None:
        serving.set_desired()
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            p.wait_until(lambda: serving.counted("package_requests_total", outcome="not_requested"))
            source.unavailable = True
            serving.set_desired(fakes.desired_version(VERSION, server.api_url))
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)

    def test_is_not_asked_for_an_archive_of_the_nodes(
        self, tmp_path: Path, serving: fakes.RunningPackageServer, source: FakeDynaKubeSource, package: Path
    ) -> None:
        source.put(manifest(image=f"file://{package}", version=VERSION))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert results(p) == {}
        assert serving.reviews.tokens == []

    def test_is_asked_once_for_a_package_that_did_not_fit_at_first(
        self,
        tmp_path: Path,
        server: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
        package: Path,
    ) -> None:
        source.put(manifest("demo", server.api_url))
        budget = package.stat().st_size + 20_000
        with Provisioning(tmp_path / "data", source, *flags(serving), f"--disk-budget={budget}") as p:
            installs = p.provisioner.installer._installs
            p.wait_until(lambda: any(install.failures >= 2 for install in installs.values()), what=p.condition)
            assert results(p) == {"ok": 1}
        assert server.count("package") == 0


class TestAnUnusableMirror:
    def test_because_it_is_away(
        self,
        tmp_path: Path,
        server: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        serving.stop()
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            shorten_waits(p)
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert results(p) == {"unreachable": 1}
        assert server.count("package") == 1
        (line,) = [each for each in caplog.records if "mirror" in each.getMessage()]
        assert line.getMessage() == "mirror failed, trying the tenant"
        assert "cannot connect" in str(line.__dict__["fields"]["reason"])

    def test_because_it_does_not_know_the_version(
        self, tmp_path: Path, server: double.Tenant, serving: fakes.RunningPackageServer, source: FakeDynaKubeSource
    ) -> None:
        serving.set_desired()
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            shorten_waits(p)
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert results(p) == {"not_requested": 1}

    def test_because_it_is_busy_for_too_long(
        self,
        tmp_path: Path,
        server: double.Tenant,
        upstream: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
    ) -> None:
        upstream.plan("package", double.Fault(stall_after=1000))
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            shorten_waits(p)
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert results(p) == {"busy": 1}
        upstream.closing.set()

    def test_because_its_own_tenant_refuses_it(
        self,
        tmp_path: Path,
        server: double.Tenant,
        upstream: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
    ) -> None:
        upstream.plan("package", *[double.Fault(status=404)] * 5)
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            began = time.monotonic()
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert time.monotonic() - began < 15
            assert results(p) == {"refused": 1}

    @pytest.mark.parametrize("content", [None, "", fakes.token(seconds=-1)], ids=["none", "empty", "expired"])
    def test_because_there_is_no_token_for_it(
        self,
        tmp_path: Path,
        server: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
        content: str | None,
    ) -> None:
        serving.token_file.unlink()
        if content is not None:
            serving.token_file.write_text(content)
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert results(p) == {"refused": 1}

    def test_because_its_bytes_are_not_what_it_said(
        self,
        tmp_path: Path,
        server: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
        package: Path,
    ) -> None:
        package_client.download_package(
            serving.client, fakes.package(VERSION), tmp_path / "warm.zip", cancelled=threading.Event()
        )
        (kept,) = serving.directory.glob("*.zip")
        content = bytearray(kept.read_bytes())
        content[inside(package, "lib64/liboneagentproc.so")] ^= 0xFF
        kept.write_bytes(content)
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert results(p) == {"wrong_content": 1}
        assert server.count("package") == 1
        assert list_corrupt(p.data) == []

    def test_because_what_it_has_is_no_agent(
        self,
        tmp_path: Path,
        server: double.Tenant,
        upstream: double.Tenant,
        serving: fakes.RunningPackageServer,
        source: FakeDynaKubeSource,
    ) -> None:
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
            archive.writestr("readme", "a sound archive without an agent")
        upstream.release(VERSION, tmp_path / "other.zip")
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert results(p) == {"ok": 1, "wrong_content": 1}
        assert server.count("package") == 1


class TestATransferThatBreaksOff:
    @pytest.fixture
    def large(self, tmp_path: Path) -> Path:
        return packages.build(tmp_path / "large.zip", OTHER, filler=24 << 20)

    def test_is_resumed_at_another_replica_with_the_same_bytes(
        self,
        tmp_path: Path,
        server: double.Tenant,
        upstream: double.Tenant,
        serving: fakes.RunningPackageServer,
        large: Path,
    ) -> None:
        upstream.release(OTHER, large)
        serving.set_desired(fakes.desired_version(OTHER, upstream.api_url))
        offer = package_client.wait_for_package(serving.client, fakes.package(OTHER), cancelled=threading.Event())
        cancelled = threading.Event()

        def stop_early(_folder: Path) -> int:
            # Asked before the first byte, and after each window of 8 MiB.
            calls.append(1)
            if len(calls) == 2:
                cancelled.set()
            return 1 << 40

        calls: list[int] = []
        with pytest.raises(download.DownloadCancelledError):
            download.download(offer.source, tmp_path / "got.zip", cancelled=cancelled, free=stop_early)
        port = serving.endpoint.port
        serving.stop()
        with fakes.RunningPackageServer(tmp_path / "second", port=port) as second:
            second.set_desired(fakes.desired_version(OTHER, upstream.api_url))
            client = package_client.Endpoint(second.url, second.token_file, second.ca_file)
            got = package_client.download_package(
                client, fakes.package(OTHER), tmp_path / "got.zip", cancelled=threading.Event()
            )
            assert second.counted("package_requests_total", outcome="partial") == 1
        assert got.resumed_at >= 8 << 20
        assert (tmp_path / "got.zip").read_bytes() == large.read_bytes()

    def test_leaves_nothing_that_the_tenants_bytes_are_put_behind(
        self, tmp_path: Path, server: double.Tenant, upstream: double.Tenant, source: FakeDynaKubeSource, large: Path
    ) -> None:
        server.release(OTHER, large)
        upstream.release(OTHER, large)
        slowly = servers.RequestLimits(block_bytes=512)
        with fakes.RunningPackageServer(tmp_path / "slow", limits=slowly, drain_seconds=0.0) as serving:
            serving.set_desired(fakes.desired_version(OTHER, upstream.api_url))
            source.put(manifest("demo", server.api_url, version=OTHER))
            with Provisioning(tmp_path / "data", source, *flags(serving)) as p:
                shorten_waits(p)
                p.wait_until(lambda: (row := p.row()) and row.version, what=p.condition)
                part = p.data.tmp / f"{p.key()}.mirror.zip.part"
                eventually(lambda: part.exists() and part.stat().st_size > 0)
                serving.stop()
                p.wait_until(lambda: p.is_ready(OTHER), 20, what=p.condition)
                assert results(p) == {"unreachable": 1}
                p.wait_until(lambda: p.collect() or not list(p.data.tmp.iterdir()))
        (asked,) = [request for request in server.requests if request.endpoint == "package"]
        assert "Range" not in asked.headers
        assert list_corrupt(p.data) == []


@pytest.mark.parametrize("value", ["http://x:1", "x:8443", "https://x/path"])
def test_an_address_that_can_not_be_is_refused_at_start(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.parse([f"--package-mirror={value}"])
    assert "--package-mirror: " in capsys.readouterr().err
