"""A version's way into the store: once, in parallel with others, whole or not at all, and again after a failure."""

from __future__ import annotations

import hashlib
import threading
import time
import zipfile
from pathlib import Path

import pytest

from oneagent.common.identifiers import Version, agent_version
from oneagent.common.node_lease import DynaKubeReport
from oneagent.csi_driver.store import store_key
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, FakeDynaKubeSource, Provisioning, list_corrupt, manifest

VERSION = Version(packages.VERSION)


def nothing_left(p: Provisioning) -> bool:
    """No byte of a package or a tree; an empty part only waits for the next try."""
    return not p.store.versions() and all(file.stat().st_size == 0 for file in p.data.tmp.iterdir())


def inside(package: Path, member: str) -> int:
    """An offset in a package at which the data of a member lies."""
    with zipfile.ZipFile(package) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(member))
    return info.header_offset + 30 + len(info.filename) + 10


class TestOneVersion:
    def test_is_downloaded_once_for_all_dynakubes_that_want_it(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        server.bytes_per_second = 20_000
        source.put(*(manifest(name, server.api_url) for name in ("a", "b", "c")))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: all(p.is_ready(VERSION, name) for name in ("a", "b", "c")))
        assert server.count("package") == 1

    def test_comes_from_another_dynakubes_tenant_if_the_first_one_refuses(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("a", server.api_url, version=VERSION), token="wrong")
        source.put(manifest("b", server.api_url, version=VERSION))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION, "b"))
            # The first one's version is there, and its tenant's answers are not known.
            p.wait_until(lambda: "agents cannot be configured yet" in p.condition("a"), what=lambda: p.condition("a"))
            assert "check apiToken" in p.condition("a")

    def test_goes_on_arriving_while_the_api_server_is_away(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        server.plan("package", double.Fault(bytes_per_second=3_000))
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: server.count("package") == 1)
            source.unavailable = True
            p.wait_until(lambda: p.is_ready(VERSION))
        assert server.count("package") == 1

    def test_that_is_not_wanted_any_more_is_cancelled_and_can_be_wanted_again(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, other_package: Path
    ) -> None:
        reached, go_on = threading.Event(), threading.Event()

        def failpoint(name: str) -> None:
            if name == "unpacking" and not go_on.is_set():
                reached.set()
                go_on.wait(10)

        server.release(OTHER, other_package)
        source.put(manifest("demo", server.api_url, version=VERSION))
        with Provisioning(tmp_path, source, failpoint=failpoint) as p:
            assert reached.wait(20)
            source.put(manifest("demo", server.api_url, version=OTHER))
            p.wait_until(lambda: (row := p.row()) and agent_version(row.version) == OTHER)
            source.put(manifest("demo", server.api_url, version=VERSION))
            p.wait_until(lambda: (row := p.row()) and agent_version(row.version) == VERSION)
            go_on.set()
            p.wait_until(lambda: p.is_ready(VERSION))
            p.collect()
            p.wait_until(lambda: p.provisioner._queue.versions() == set())
            assert [agent_version(version) for version in p.provisioner.state.versions] == [VERSION]
            assert list(p.data.tmp.iterdir()) == []


class TestSeveralVersions:
    def test_of_one_tenant_arrive_one_after_another(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, other_package: Path
    ) -> None:
        fetching: list[str] = []
        most = 0

        def failpoint(name: str) -> None:
            nonlocal most
            if name == "download begun":
                fetching.append(name)
                most = max(most, len(fetching))
                time.sleep(0.2)
            if name == "downloaded":
                fetching.pop()

        server.release(OTHER, other_package)
        source.put(manifest("a", server.api_url, version=VERSION), manifest("b", server.api_url, version=OTHER))
        with Provisioning(tmp_path, source, failpoint=failpoint) as p:
            p.wait_until(lambda: p.is_ready(VERSION, "a") and p.is_ready(OTHER, "b"))
        assert most == 1

    def test_of_two_tenants_arrive_side_by_side(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, other_package: Path
    ) -> None:
        together = threading.Barrier(2)

        def failpoint(name: str) -> None:
            if name == "downloaded":
                together.wait(5)

        with double.Tenant() as second:
            second.release(OTHER, other_package)
            source.put(manifest("a", server.api_url, version=VERSION), manifest("b", second.api_url, version=OTHER))
            with Provisioning(tmp_path, source, failpoint=failpoint) as p:
                p.wait_until(lambda: p.is_ready(VERSION, "a") and p.is_ready(OTHER, "b"))
        assert list_corrupt(p.data) == []


class TestABrokenDownload:
    def test_is_resumed(self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path) -> None:
        server.plan("package", double.Fault(cut_after=1000))
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION))
        second = [request for request in server.requests if request.endpoint == "package"][1]
        assert second.headers["Range"] == "bytes=1000-"

    def test_is_resumed_by_the_next_process(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        server.plan("package", double.Fault(bytes_per_second=40_000_000))
        packages.build(tmp_path / "large.zip", OTHER, filler=12 << 20)
        server.release(OTHER, tmp_path / "large.zip")
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: any(file.stat().st_size > 1 << 20 for file in p.data.tmp.glob("*.part")))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: p.is_ready(OTHER))
        assert "Range" in [request for request in server.requests if request.endpoint == "package"][1].headers

    def test_that_the_tenant_asks_to_delay_is_delayed(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        server.plan("package", double.Fault(status=429, headers={"Retry-After": "2"}))
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: server.count("package") == 1)
            refused = time.monotonic()
            p.wait_until(lambda: p.is_ready(VERSION))
            assert time.monotonic() - refused >= 1.9
        assert server.count("package") == 2


class TestABadPackage:
    @pytest.mark.parametrize(
        ("fault", "problem"),
        [
            (None, "liboneagentproc.so"),
            (double.Fault(status=404), "answered 404"),
        ],
        ids=["altered", "absent"],
    )
    def test_is_refused_told_and_fetched_anew(
        self,
        tmp_path: Path,
        server: double.Tenant,
        source: FakeDynaKubeSource,
        package: Path,
        fault: double.Fault | None,
        problem: str,
    ) -> None:
        server.plan("package", fault or double.Fault(flip=inside(package, "lib64/liboneagentproc.so")))
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "can't be installed" in p.condition(), what=p.condition)
            assert problem in p.condition()
            assert nothing_left(p)
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            p.wait_until(lambda: source.states()[-2:] == ["failed", "ready"], what=lambda: source.reports)
        messages = [kube.message for report in source.reports for kube in report.dynakubes if kube.state == "failed"]
        assert all(problem in message for message in messages)
        assert source.reports[-1].dynakubes == (DynaKubeReport("demo", VERSION, "ready"),)

    def test_that_is_no_archive_leaves_nothing(self, tmp_path: Path, source: FakeDynaKubeSource) -> None:
        archive = tmp_path / "agent.zip"
        archive.write_bytes(b"this is not a zip" * 1000)
        source.put(manifest(image=f"file://{archive}"))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: "not a readable zip" in p.condition(), what=p.condition)
            assert nothing_left(p)
        assert archive.exists()

    def test_that_the_disk_has_lost_is_fetched_again(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        def failpoint(name: str) -> None:
            if name == "downloaded" and server.count("package") == 1:
                next((tmp_path / "tmp").glob(f"{VERSION}_*.zip")).unlink()

        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source, failpoint=failpoint) as p:
            p.wait_until(lambda: p.is_ready(VERSION), 10, what=p.condition)
        assert server.count("package") == 2

    def test_that_is_not_what_it_was_when_it_was_named_is_refused(
        self, tmp_path: Path, source: FakeDynaKubeSource, package: Path, other_package: Path
    ) -> None:
        archive = tmp_path / "agent.zip"
        archive.write_bytes(package.read_bytes())
        swapped = threading.Event()

        def failpoint(name: str) -> None:
            if name == "download begun" and not swapped.is_set():
                (tmp_path / "new").write_bytes(other_package.read_bytes())
                (tmp_path / "new").rename(archive)
                swapped.set()

        source.put(manifest(image=f"file://{archive}"))
        with Provisioning(tmp_path / "data", source, failpoint=failpoint) as p:
            digest = hashlib.sha256(other_package.read_bytes()).hexdigest()
            p.wait_until(lambda: p.is_ready(store_key.of_zip(digest)))
            assert p.store.versions() == [store_key.of_zip(digest)]

    def test_is_tried_again_at_once_when_the_dynakube_is_mended(
        self, tmp_path: Path, source: FakeDynaKubeSource, package: Path
    ) -> None:
        source.put(manifest(image="file:///nowhere.zip", version=VERSION))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "can't be installed" in p.condition())
            p.provisioner.installer._installs[p.key()].next_at = time.monotonic() + 3600
            source.put(manifest(image=f"file://{package}", version=VERSION))
            p.wait_until(lambda: p.is_ready(VERSION), 3)

    def test_that_does_not_fit_is_refused_with_the_figures_and_not_fetched_twice(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path
    ) -> None:
        budget = package.stat().st_size + 20_000
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source, f"--disk-budget={budget}") as p:
            p.wait_until(lambda: "MiB are needed" in p.condition(), what=p.condition)
            assert "disk budget" in p.condition()
            p.wait_until(lambda: p.provisioner.installer._installs[p.key()].failures >= 2, what=p.condition)
        assert server.count("package") == 1


class TestStopping:
    def test_keeps_what_can_be_resumed_and_nothing_else(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        (tmp_path / "tmp" / "old.tree").mkdir(parents=True)
        for name in ("old.zip", "layer.x", f"{VERSION}.zip.part", f"{VERSION}.zip.part.json", "gone.zip.part"):
            (tmp_path / "tmp" / name).write_text("x")
        started = Provisioning(tmp_path, source)
        # Its thread may collect what no DynaKube requests.
        left = sorted(path.name for path in started.data.tmp.iterdir())
        assert left == [f"{VERSION}.zip.part", f"{VERSION}.zip.part.json", "gone.zip.part"]
        with started as p:
            source.put(manifest("demo", server.api_url))
            p.wait_until(lambda: p.is_ready(VERSION))
            # A moment after the version is there the install tidies up.
            p.wait_until(lambda: p.collect() or not list(p.data.tmp.iterdir()))
