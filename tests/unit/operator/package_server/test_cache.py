"""What lies on the disk: within the budget, there as long as it is sent, and looked at before it is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import prometheus_client
import pytest

from oneagent.operator.package_server import cache
from oneagent.operator.package_server.errors import NoRoomError
from oneagent.operator.package_server.metrics import PackageMetrics
from tests.fakes import package_server as fakes
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.packages import VERSION
from tests.fakes.provisioner import OTHER
from tests.unit.operator.package_server.conftest import http

URL = f"/v1/packages/demo/{VERSION}?arch=x86_64"


@pytest.fixture
def clock() -> list[float]:
    return [1_000_000.0]


@pytest.fixture
def package_cache(tmp_path: Path, clock: list[float]) -> Iterator[cache.PackageCache]:
    package_cache = cache.PackageCache(
        tmp_path, 1000, PackageMetrics(prometheus_client.CollectorRegistry()), now=lambda: clock[0]
    )
    package_cache.open()
    yield package_cache
    package_cache.close()


def name(number: int) -> str:
    return cache.key(version=("tenant", str(number)), variant=("x86",))


def put(package_cache: cache.PackageCache, number: int, size: int = 300) -> str:
    with package_cache.incoming(name(number)) as path:
        path.write_bytes(b"x" * size)
        package_cache.add(name(number), size, "0" * 64)
    return name(number)


def here(package_cache: cache.PackageCache) -> list[int]:
    return [number for number in range(10) if (package_cache.directory / f"{name(number)}.zip").exists()]


class TestRoom:
    def test_is_made_by_what_was_wanted_least_recently(
        self, package_cache: cache.PackageCache, clock: list[float]
    ) -> None:
        for number in (1, 2, 3):
            clock[0] += 1
            put(package_cache, number)
        package_cache.set_desired(frozenset({cache.group(("tenant", "2"))}))
        clock[0] += 1
        stored = package_cache.pin(name(1))
        assert stored is not None
        package_cache.unpin(stored)
        package_cache.make_room(300, name(4))
        assert here(package_cache) == [1, 2]
        package_cache.make_room(600, name(4))
        assert here(package_cache) == [2]

    def test_is_not_made_by_what_is_being_sent(self, package_cache: cache.PackageCache) -> None:
        put(package_cache, 1)
        put(package_cache, 2)
        stored = package_cache.pin(name(1))
        assert stored is not None
        with pytest.raises(NoRoomError, match="needs 900 bytes, 200 more than the budget of 1000 bytes"):
            package_cache.make_room(900, name(3))
        assert here(package_cache) == [1, 2], "nothing goes in vain"
        package_cache.make_room(700, name(3))
        assert here(package_cache) == [1]
        package_cache.unpin(stored)
        package_cache.make_room(900, name(3))
        assert here(package_cache) == []

    def test_that_an_arriving_package_will_need_is_taken(self, package_cache: cache.PackageCache) -> None:
        put(package_cache, 1)
        with package_cache.incoming(name(2)), package_cache.incoming(name(3)):
            package_cache.reserve(name(2), 500)
            assert (package_cache.free_bytes(name(2)), package_cache.free_bytes(name(3))) == (700, 200)
        assert package_cache.free_bytes(name(3)) == 700

    def test_is_made_by_parts_that_nobody_resumes(self, package_cache: cache.PackageCache) -> None:
        (package_cache.directory / f"{name(1)}.zip.part").write_bytes(b"x" * 900)
        package_cache.make_room(900, name(2))
        assert not list(package_cache.directory.glob("*.part"))

    def test_is_made_for_the_next_version(
        self, tmp_path: Path, server: double.Tenant, package: Path, serving: fakes.RunningPackageServer
    ) -> None:
        packages.build(tmp_path / "other.zip", OTHER, filler=2 << 20)
        server.release(OTHER, tmp_path / "other.zip")
        with fakes.RunningPackageServer(tmp_path / "small", budget=3 << 20) as small, http(small) as client:
            for version in (VERSION, OTHER):
                small.set_desired(fakes.desired_version(version, server.api_url))
                assert client.get(f"/v1/packages/demo/{version}?arch=x86_64").status_code == 200
            assert len(list(small.directory.glob("*.zip"))) == 1
            assert small.counted("package_evictions_total") == 1
            assert small.counted("package_stored_bytes") == (tmp_path / "other.zip").stat().st_size

    def test_that_cannot_be_made_is_an_answer(self, tmp_path: Path, server: double.Tenant) -> None:
        with fakes.RunningPackageServer(tmp_path / "small", budget=1 << 20) as small, http(small) as client:
            small.set_desired(fakes.desired_version(VERSION, server.api_url))
            answer = client.get(URL)
            assert (answer.status_code, "more than the budget of 1048576" in answer.text) == (507, True), answer.text
            assert [file.name for file in small.directory.iterdir()] == ["lock"]


class TestTheNextProcess:
    def test_serves_what_is_there(self, tmp_path: Path, server: double.Tenant, package: Path) -> None:
        for _ in range(2):
            with fakes.RunningPackageServer(tmp_path / "endpoint") as serving, http(serving) as client:
                serving.set_desired(fakes.desired_version(VERSION, server.api_url))
                assert client.get(URL).content == package.read_bytes()
        assert server.count("package") == 1

    def test_downloads_a_corrupt_package_again(self, tmp_path: Path, server: double.Tenant, package: Path) -> None:
        with fakes.RunningPackageServer(tmp_path / "endpoint") as serving, http(serving) as client:
            serving.set_desired(fakes.desired_version(VERSION, server.api_url))
            client.get(URL)
        (file,) = serving.directory.glob("*.zip")
        content = bytearray(file.read_bytes())
        content[1000] ^= 0xFF
        file.write_bytes(content)
        with fakes.RunningPackageServer(tmp_path / "endpoint") as serving, http(serving) as client:
            serving.set_desired(fakes.desired_version(VERSION, server.api_url))
            assert client.get(URL).content == package.read_bytes()
        assert server.count("package") == 2

    def test_removes_what_was_not_finished_and_keeps_what_can_be_resumed(self, tmp_path: Path) -> None:
        good = name(1)
        for file in (f"{good}.zip", "stranger", f"{name(2)}.json", f"{name(3)}.zip.part", f"{name(4)}.json.new"):
            (tmp_path / file).write_text("x")
        package_cache = cache.PackageCache(tmp_path, 1000, PackageMetrics(prometheus_client.CollectorRegistry()))
        package_cache.open()
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted([f"{name(3)}.zip.part", "lock"])
        package_cache.close()

    def test_waits_for_no_folder_that_another_one_has(
        self, tmp_path: Path, serving: fakes.RunningPackageServer
    ) -> None:
        second = cache.PackageCache(serving.directory, 1000, PackageMetrics(prometheus_client.CollectorRegistry()))
        with pytest.raises(cache.CacheError, match="each replica needs a directory of its own"):
            second.open()


def test_a_package_that_vanishes_from_the_disk_is_downloaded_again(
    serving: fakes.RunningPackageServer, client: httpx.Client, server: double.Tenant
) -> None:
    assert client.get(URL).status_code == 200
    for file in serving.directory.glob("*.zip"):
        file.unlink()
    assert client.get(URL).status_code == 200
    assert server.count("package") == 2
