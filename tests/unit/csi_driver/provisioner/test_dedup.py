"""Versions in the store that share files: on the disk once, gone with the last of them, corrupt together."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneagent.common.identifiers import StoreKey, Version
from oneagent.common.unpack import file_manifest
from oneagent.csi_driver.linux import disk_usage
from oneagent.csi_driver.store import integrity
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, FakeDynaKubeSource, Provisioning, list_corrupt, manifest

VERSION = Version(packages.VERSION)
COMMON = "any/liboneagentjava.so"


@pytest.fixture(autouse=True)
def both_versions(server: double.Tenant, source: FakeDynaKubeSource, other_package: Path) -> None:
    server.release(OTHER, other_package)
    source.put(manifest("a", server.api_url, version=VERSION))


def key(p: Provisioning, version: Version) -> StoreKey:
    return p.key("a" if version == VERSION else "b")


def file(p: Provisioning, version: Version) -> Path:
    return Path(p.data.agent(key(p, version)), "agent/bin", version, COMMON)


def install_both(p: Provisioning, source: FakeDynaKubeSource, server: double.Tenant) -> None:
    """One after the other: versions that are unpacked at the same time don't know of each other."""
    p.wait_until(lambda: p.is_ready(VERSION, "a"))
    source.put(manifest("b", server.api_url, version=OTHER))
    p.wait_until(lambda: p.is_ready(OTHER, "b"))


def test_a_file_of_both_is_stored_and_counted_once(
    tmp_path: Path, source: FakeDynaKubeSource, server: double.Tenant
) -> None:
    with Provisioning(tmp_path, source) as p:
        install_both(p, source, server)
        assert file(p, VERSION).samefile(file(p, OTHER))
        shared = p.metrics.registry.get_sample_value("oneagent_csi_shared_bytes_total") or 0
        assert shared >= file(p, OTHER).stat().st_size
        p.collect()
        together = p.metrics.registry.get_sample_value("oneagent_csi_store_disk_bytes")
        one_by_one = [disk_usage.total_bytes(p.data.agent(key(p, version))) for version in (VERSION, OTHER)]
        assert together == disk_usage.total_bytes(p.data.agents) - p.data.agents.stat().st_blocks * 512
        assert together is not None
        assert together < sum(one_by_one)
        assert list_corrupt(p.data) == []


def test_the_version_that_stays_is_whole_without_the_other(
    tmp_path: Path, source: FakeDynaKubeSource, server: double.Tenant
) -> None:
    with Provisioning(tmp_path, source) as p:
        install_both(p, source, server)
        source.remove("a")
        p.wait_until(lambda: p.collect() == [VERSION])
        p.wait_until(lambda: not p.collect() and not list(p.data.trash.iterdir()))
        assert file(p, OTHER).stat().st_nlink == 1
        assert list_corrupt(p.data) == []


def test_corruption_of_a_shared_file_is_repaired_in_both(
    tmp_path: Path, source: FakeDynaKubeSource, server: double.Tenant
) -> None:
    with Provisioning(tmp_path, source, "--scrub-interval=50ms", "--scrub-rate=1Gi") as p:
        install_both(p, source, server)
        whole = file(p, OTHER).read_bytes()
        with file(p, OTHER).open("r+b") as opened:
            opened.write(b"corruption")
        p.wait_until(lambda: server.count("package") == 4)
        p.wait_until(lambda: p.is_ready(VERSION, "a") and p.is_ready(OTHER, "b"))
        assert [file(p, version).read_bytes() == whole for version in (VERSION, OTHER)] == [True, True]
        assert list_corrupt(p.data) == []
        p.wait_until(lambda: len(source.reports[-1].corruptions) == 2)


def test_a_shared_file_that_cannot_be_read_is_corruption_of_both(
    tmp_path: Path, source: FakeDynaKubeSource, server: double.Tenant
) -> None:
    lost = file_manifest.Finding(f"agent/bin/{OTHER}/{COMMON}", "unreadable", "Input/output error")
    with Provisioning(tmp_path, source) as p:
        install_both(p, source, server)
        found = integrity.IntegrityReport("version", key(p, OTHER), integrity.State.CORRUPT, findings=(lost,))
        assert p.provisioner.scrubber._find_sharing(found) == [key(p, VERSION)]
