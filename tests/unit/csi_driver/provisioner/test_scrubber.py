"""The scrubber leaves intact versions alone and has corrupt ones installed again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.store import corruption_log
from oneagent.csi_driver.store.corruption_log import Corruption
from oneagent.csi_driver.store.integrity import State
from tests.fakes import packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, FakeDynaKubeSource, Provisioning, manifest

VERSION = Version(packages.VERSION)
DAY = 86400


def spoil(file: Path) -> None:
    """Change one byte in place, as a disk would."""
    with file.open("r+b") as opened:
        first = opened.read(1)
        opened.seek(0)
        opened.write(bytes([first[0] ^ 1]))


def count(p: Provisioning, result: str) -> float:
    return p.metrics.registry.get_sample_value("oneagent_csi_version_checks_total", {"result": result}) or 0.0


@pytest.fixture
def installed(tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource) -> Provisioning:
    """A provisioner that has come to rest with one version, and whose checks are called by hand."""
    source.put(manifest("demo", server.api_url, version=VERSION))
    with Provisioning(tmp_path, source) as p:
        p.wait_until(lambda: p.is_ready(VERSION))
    return Provisioning(tmp_path, source)


@pytest.fixture
def library(installed: Provisioning) -> Path:
    return Path(installed.data.agent(installed.key()), PRELOAD_LIBRARY)


def check(p: Provisioning) -> State | None:
    found = p.provisioner.scrubber.scrub(p.key(), threading.Event())
    return found.state if found else None


class TestACorruptVersion:
    def test_is_taken_out_said_and_installed_again(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source, "--scrub-interval=50ms", "--scrub-rate=1Gi") as p:
            p.wait_until(lambda: p.is_ready(VERSION) and count(p, "ok"))
            spoil(Path(p.data.agent(p.key()), PRELOAD_LIBRARY))
            p.wait_until(lambda: server.count("package") == 2 and p.is_ready(VERSION))
            assert provisioner.list_corrupt(p.data) == []
            p.wait_until(lambda: source.reports[-1].corruptions and source.states()[-1] == "ready")
        (corruption,) = source.reports[-1].corruptions
        assert corruption.version == VERSION
        assert f"{PRELOAD_LIBRARY} (content)" in corruption.message
        assert count(p, "corrupt") == 1

    def test_is_recorded_as_corrupt_until_it_is_installed_again(self, installed: Provisioning, library: Path) -> None:
        spoil(library)
        assert check(installed) == State.CORRUPT
        assert not installed.store.has(installed.key())
        (row,) = provisioner.table(installed.data, "versions")
        assert (row["state"], row["message"]) == ("corrupt", f"{PRELOAD_LIBRARY} (content)")
        assert installed.metrics.registry.get_sample_value("oneagent_csi_corrupt_versions") == 1

    def test_is_still_recorded_as_corrupt_after_a_restart(
        self, tmp_path: Path, installed: Provisioning, library: Path
    ) -> None:
        spoil(library)
        check(installed)
        Provisioning(tmp_path, FakeDynaKubeSource())
        assert [row["state"] for row in provisioner.table(installed.data, "versions")] == ["corrupt"]

    def test_takes_with_it_the_versions_that_have_the_same_file(self, installed: Provisioning, library: Path) -> None:
        for version in (OTHER, Version("3")):
            other = Path(installed.data.agent(version), PRELOAD_LIBRARY)
            other.parent.mkdir(parents=True)
            (installed.data.manifest(version)).write_bytes(installed.data.manifest(installed.key()).read_bytes())
        os.link(library, Path(installed.data.agent(OTHER), PRELOAD_LIBRARY))
        Path(installed.data.agent(Version("3")), PRELOAD_LIBRARY).write_bytes(library.read_bytes())
        spoil(library)
        check(installed)
        assert installed.store.versions() == ["3"]
        found = corruption_log.read(installed.data, OTHER)
        assert found is not None
        assert found.message == f"shared with {VERSION}: {PRELOAD_LIBRARY} (content)"

    def test_waits_for_mounts_that_are_being_made(self, installed: Provisioning, library: Path) -> None:
        spoil(library)
        found: list[State | None] = []
        checking = threading.Thread(target=lambda: found.append(check(installed)))
        with installed.store.lease():
            checking.start()
            checking.join(0.3)
            assert checking.is_alive()
            assert installed.store.has(installed.key())
        checking.join(20)
        assert found == [State.CORRUPT]


class TestAWholeVersion:
    def test_is_due_again_a_period_after_its_last_check(self, installed: Provisioning) -> None:
        checks, file = installed.provisioner.scrubber, installed.data.manifest(installed.key())
        assert checks.due() is None
        os.utime(file, (0, time.time() - DAY - 1))
        assert checks.due() == installed.key()
        assert check(installed) == State.OK
        assert checks.due() is None
        assert abs(file.stat().st_mtime - time.time()) < 60

    def test_stays_if_the_check_is_cut_short(self, installed: Provisioning, library: Path) -> None:
        spoil(library)
        stop = threading.Event()
        stop.set()
        assert installed.provisioner.scrubber.scrub(installed.key(), stop) is None
        assert installed.store.has(installed.key())

    def test_that_is_collected_meanwhile_is_not_reported_as_corrupt(self, installed: Provisioning) -> None:
        installed.store.remove(installed.key())
        assert check(installed) is None
        assert corruption_log.list_versions(installed.data) == []

    def test_without_a_manifest_is_looked_at_once_a_period(self, installed: Provisioning) -> None:
        installed.data.manifest(installed.key()).unlink()
        assert installed.provisioner.scrubber.due() == installed.key()
        assert check(installed) == State.UNVERIFIED
        assert installed.provisioner.scrubber.due() is None
        assert installed.store.has(installed.key())


class TestANote:
    def test_of_a_version_that_never_left_is_undone_and_the_version_checked_at_once(
        self, tmp_path: Path, installed: Provisioning
    ) -> None:
        corruption_log.record(installed.data, installed.key(), Corruption(time.time() + 1, "x"))
        after = Provisioning(tmp_path, FakeDynaKubeSource())
        assert corruption_log.list_versions(after.data) == []
        assert after.provisioner.scrubber.due() == installed.key()

    def test_stays_until_the_version_is_installed_again_and_no_volume_has_the_old_one(
        self, installed: Provisioning
    ) -> None:
        data, record = installed.data, volume()
        os.makedirs(data.volume(record.id).upper)
        corruption_log.record(data, VERSION, Corruption(time.time() + 1, "x"))
        for volumes, stored, stays in (([], [], True), ([record], [VERSION], True), ([], [VERSION], False)):
            corruption_log.prune(data, volumes, stored, {VERSION})
            assert corruption_log.list_versions(data) == ([VERSION] if stays else [])

    def test_says_nothing_of_a_volume_that_was_published_later(self, installed: Provisioning) -> None:
        data, record = installed.data, volume()
        corruption_log.record(data, VERSION, Corruption(time.time() - 60, "x"))
        os.makedirs(data.volume(record.id).upper)
        assert corruption_log.for_volume(data, record.id, VERSION) == ""

    @pytest.mark.parametrize("content", [b"", b"[]", b'{"at": "soon", "message": "x"}', b"\xff"])
    def test_that_cannot_be_read_counts_as_none(self, installed: Provisioning, content: bytes) -> None:
        installed.data.corruption_record(installed.key()).write_bytes(content)
        assert corruption_log.read(installed.data, installed.key()) is None
        assert corruption_log.for_volume(installed.data, VolumeId("v"), installed.key()) == ""


def volume() -> VolumeRecord:
    return VolumeRecord(VolumeId("v"), "app", "demo", "/t", "mounted", version=VERSION)
