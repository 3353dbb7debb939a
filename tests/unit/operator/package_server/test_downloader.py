"""One download for all who ask, whatever the tenant does."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from oneagent.common import package_client
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.operator.package_server import downloader
from oneagent.operator.package_server import handlers as servers
from tests.fakes import package_server as fakes
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.packages import VERSION
from tests.fakes.provisioner import OTHER, eventually
from tests.unit.operator.package_server.conftest import http

URL = f"/v1/packages/demo/{VERSION}?arch=x86_64"
NEVER = threading.Event()
AT_ONCE = servers.RequestLimits(wait_seconds=0.05)


def fetch(serving: fakes.RunningPackageServer, into: Path, **patience: float) -> download.Downloaded:
    found = package_client.WaitLimits(**{"away_seconds": 0.5, "pending_seconds": 10.0, **patience})
    return package_client.download_package(serving.client, fakes.package(VERSION), into, cancelled=NEVER, wait=found)


class TestAClient:
    def test_gets_the_package_verified(
        self, serving: fakes.RunningPackageServer, tmp_path: Path, package: Path
    ) -> None:
        got = fetch(serving, tmp_path / "agent.zip")
        assert got.sha256 == hashlib.sha256(package.read_bytes()).hexdigest()
        assert (tmp_path / "agent.zip").read_bytes() == package.read_bytes()

    def test_waits_while_the_package_is_downloaded(self, tmp_path: Path, server: double.Tenant, package: Path) -> None:
        server.bytes_per_second = 1_500_000
        with fakes.RunningPackageServer(
            tmp_path / "endpoint", limits=servers.RequestLimits(wait_seconds=0.2)
        ) as serving:
            serving.set_desired(fakes.desired_version(VERSION, server.api_url))
            fetch(serving, tmp_path / "agent.zip")
            assert serving.counted("package_requests_total", outcome="pending") >= 1
        assert (tmp_path / "agent.zip").read_bytes() == package.read_bytes()
        assert server.count("package") == 1

    def test_gives_up_after_a_bounded_time(self, tmp_path: Path, server: double.Tenant) -> None:
        server.plan("package", double.Fault(stall_after=1000))
        with fakes.RunningPackageServer(
            tmp_path / "endpoint", limits=servers.RequestLimits(wait_seconds=0.2)
        ) as serving:
            serving.set_desired(fakes.desired_version(VERSION, server.api_url))
            began = time.monotonic()
            with pytest.raises(errors.RateLimitedError, match="is being downloaded"):
                fetch(serving, tmp_path / "agent.zip", pending_seconds=1.0)
            assert time.monotonic() - began < 15, "and not the minute of the default"
            server.closing.set()

    def test_waits_a_little_for_a_version_that_is_not_known_yet(
        self, serving: fakes.RunningPackageServer, server: double.Tenant, tmp_path: Path
    ) -> None:
        serving.set_desired()
        timer = threading.Timer(0.5, lambda: serving.set_desired(fakes.desired_version(VERSION, server.api_url)))
        timer.start()
        fetch(serving, tmp_path / "agent.zip", away_seconds=5.0)
        serving.set_desired()
        with pytest.raises(errors.HttpStatusError, match="does not use"):
            fetch(serving, tmp_path / "agent.zip")
        timer.join()

    def test_stops_waiting_when_asked_to(self, serving: fakes.RunningPackageServer, tmp_path: Path) -> None:
        serving.set_desired()
        cancelled = threading.Event()
        threading.Timer(0.3, cancelled.set).start()
        patience = package_client.WaitLimits(away_seconds=30)
        with pytest.raises(download.DownloadCancelledError):
            package_client.download_package(
                serving.client, fakes.package(VERSION), tmp_path / "x", cancelled=cancelled, wait=patience
            )

    def test_shows_a_new_token_as_soon_as_there_is_one(
        self, serving: fakes.RunningPackageServer, tmp_path: Path
    ) -> None:
        serving.token_file.write_text(fakes.token(seconds=-1))
        with pytest.raises(errors.HttpStatusError, match="projected service account token"):
            fetch(serving, tmp_path / "agent.zip")
        serving.token_file.write_text(fakes.token())
        fetch(serving, tmp_path / "agent.zip")

    def test_does_not_trust_another_authority(self, serving: fakes.RunningPackageServer, tmp_path: Path) -> None:
        client = package_client.Endpoint(serving.url, serving.token_file)
        with pytest.raises(errors.UnreachableError, match="not trusted"):
            package_client.download_package(client, fakes.package(VERSION), tmp_path / "x", cancelled=NEVER)
        assert serving.reviews.tokens == []

    @pytest.mark.parametrize("url", ["http://x:1", "https://", "https://x/y", "https://u:p@x", "https://x?y", "x:1"])
    def test_is_told_only_of_an_address_with_tls(self, url: str) -> None:
        with pytest.raises(http_client.InvalidSettingsError, match="https://host:port is needed"):
            package_client.Endpoint(url, Path("/token"))

    def test_without_a_token_says_so(self, serving: fakes.RunningPackageServer, tmp_path: Path) -> None:
        for content in (None, "", "two words"):
            serving.token_file.unlink(missing_ok=True)
            if content is not None:
                serving.token_file.write_text(content)
            with pytest.raises(http_client.InvalidSettingsError, match=str(serving.token_file)):
                fetch(serving, tmp_path / "x")


class TestManyCallers:
    def test_share_one_download(self, tmp_path: Path, server: double.Tenant, package: Path) -> None:
        server.bytes_per_second = 4_000_000
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        with fakes.RunningPackageServer(tmp_path / "endpoint") as serving:
            serving.set_desired(fakes.desired_version(VERSION, server.api_url))

            def one(number: int) -> str:
                token = fakes.token(account=f"ns{number}/default")
                with http(serving, Authorization=f"Bearer {token}") as client:
                    answer = client.get(URL)
                assert answer.status_code == 200, answer.text
                return hashlib.sha256(answer.content).hexdigest()

            with ThreadPoolExecutor(100) as threads:
                assert set(threads.map(one, range(100))) == {digest}
            eventually(lambda: serving.counted("package_requests_total", outcome="ok") == 100)
            assert serving.counted("package_downloads_total", result="ok") == 1
        assert server.count("package") == 1


class TestSlowTenants:
    def test_keep_no_other_one_waiting(
        self, tmp_path: Path, server: double.Tenant, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(downloader, "_PATIENCE_SECONDS", 0.5)
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(double.Tenant()) for _ in range(4)]
            serving = stack.enter_context(fakes.RunningPackageServer(tmp_path / "slow", limits=AT_ONCE))
            names = ["demo", *(f"slow{number}" for number in range(4))]
            for tenant in slow:
                tenant.release(VERSION, package)
                tenant.bytes_per_second = 10_000
            serving.set_desired(
                *(
                    fakes.desired_version(VERSION, tenant.api_url, dynakube=name)
                    for name, tenant in zip(names, [server, *slow], strict=True)
                )
            )
            client = stack.enter_context(http(serving))
            for name in names[1:]:
                assert client.get(URL.replace("demo", name)).status_code == 503
            eventually(lambda: client.get(URL).status_code == 200, 10)
            assert client.get(URL.replace("demo", "slow0")).status_code == 503

    def test_have_one_download_at_a_time(self, tmp_path: Path, server: double.Tenant, package: Path) -> None:
        server.release(OTHER, package)
        server.bytes_per_second = 1_000_000
        other = URL.replace(VERSION, OTHER)
        with fakes.RunningPackageServer(tmp_path / "one", limits=AT_ONCE) as serving, http(serving) as client:
            serving.set_desired(*(fakes.desired_version(version, server.api_url) for version in (VERSION, OTHER)))
            assert [client.get(url).status_code for url in (URL, other)] == [503, 503]
            eventually(lambda: server.count("package"))
            assert (client.get(other).status_code, client.get(URL).status_code) == (503, 503)
            assert server.count("package") == 1
            eventually(lambda: client.get(URL).status_code == 200, 20)
            eventually(lambda: client.get(other).status_code == 200, 20)


class TestATenantThat:
    def test_breaks_off_is_resumed(self, client: httpx.Client, server: double.Tenant, package: Path) -> None:
        server.plan("package", double.Fault(cut_after=1_000_000))
        assert client.get(URL).content == package.read_bytes()
        second = [request for request in server.requests if request.endpoint == "package"][1]
        assert second.headers["Range"] == "bytes=1000000-"

    def test_sends_wrong_bytes_is_not_believed(
        self, serving: fakes.RunningPackageServer, client: httpx.Client, server: double.Tenant, package: Path
    ) -> None:
        server.plan("package", double.Fault(flip=package.stat().st_size // 2))
        answer = client.get(URL)
        assert (answer.status_code, "the tenant's package is corrupt: checksum" in answer.text) == (502, True), (
            answer.text
        )
        assert 1 <= int(answer.headers["Retry-After"]) <= 2
        assert not list(serving.directory.glob("*.zip"))
        eventually(lambda: client.get(URL).status_code == 200)
        assert client.get(URL).content == package.read_bytes()

    def test_sends_no_zip_is_not_believed(self, client: httpx.Client, server: double.Tenant, tmp_path: Path) -> None:
        bad = tmp_path / "bad.zip"
        bad.write_bytes(b"this is not a zip" * 1000)
        server.release(VERSION, bad)
        answer = client.get(URL)
        assert (answer.status_code, "not a readable zip" in answer.text) == (502, True)

    def test_refuses_is_not_asked_for_each_caller(
        self, serving: fakes.RunningPackageServer, client: httpx.Client, server: double.Tenant
    ) -> None:
        serving.set_desired(fakes.desired_version(VERSION, server.api_url, token="dt0c01.WRONG.PRIVATE"))
        answers = [client.get(URL) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {502}
        assert server.count("package") == 1
        assert "PRIVATE" not in "".join(answer.text for answer in answers)
        assert "InstallerDownload" in answers[0].text

    def test_asks_for_time_gets_it(self, client: httpx.Client, server: double.Tenant) -> None:
        server.plan("package", double.Fault(status=429, headers={"Retry-After": "2"}))
        began = time.monotonic()
        answer = client.get(URL)
        assert (answer.status_code, answer.headers["Retry-After"] in ("2", "3")) == (503, True)
        eventually(lambda: client.get(URL).status_code == 200)
        assert time.monotonic() - began >= 1.9
        assert server.count("package") == 2

    def test_is_unclear_is_an_answer_and_no_crash(
        self, serving: fakes.RunningPackageServer, client: httpx.Client
    ) -> None:
        serving.set_desired(fakes.desired_version(VERSION, "https://tenant.example/no-api"))
        answer = client.get(URL)
        assert (answer.status_code, "must end in /api" in answer.text) == (502, True)


class TestAVersionThatIsNotWantedAnyMore:
    def test_is_not_downloaded_to_its_end(
        self, serving: fakes.RunningPackageServer, server: double.Tenant, tmp_path: Path
    ) -> None:
        packages.build(tmp_path / "large.zip", OTHER, filler=24 << 20)
        server.release(OTHER, tmp_path / "large.zip")
        server.plan("package", double.Fault(bytes_per_second=12_000_000))
        serving.set_desired(fakes.desired_version(OTHER, server.api_url))
        with http(serving) as client, ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(client.get, f"/v1/packages/demo/{OTHER}?arch=x86_64")
            eventually(lambda: any(file.stat().st_size > 1 << 20 for file in serving.directory.glob("*.part")))
            serving.set_desired()
            assert waiting.result().status_code == 503
            eventually(lambda: serving.counted("package_downloads_total", result="cancelled") == 1)
            serving.set_desired(fakes.desired_version(OTHER, server.api_url))
            assert client.get(f"/v1/packages/demo/{OTHER}?arch=x86_64").status_code == 200
        assert "Range" in server.requests[-1].headers

    def test_is_refused_though_it_lies_there(
        self, serving: fakes.RunningPackageServer, client: httpx.Client, server: double.Tenant
    ) -> None:
        assert client.get(URL).status_code == 200
        serving.set_desired()
        assert client.get(URL).status_code == 404
        serving.set_desired(fakes.desired_version(VERSION, server.api_url))
        assert client.get(URL).status_code == 200
        assert server.count("package") == 1
