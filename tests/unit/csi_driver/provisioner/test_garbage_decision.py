"""The decision of what is garbage: its four conditions one by one, and which unused versions are expired."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir, LayerId, VolumeId
from oneagent.csi_driver.linux.mount_table import Mount
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.provisioner import garbage_collector
from oneagent.csi_driver.store import usage
from tests.unit.csi_driver.provisioner.garbage_scene import bind, desired, overlay

ONE, TWO, THREE = Version("1"), Version("2"), Version("3")
MIB = 1 << 20


def volume(version: str = "", *, mode: str = "app", dynakube: str = "demo", layer: str = "") -> VolumeRecord:
    return VolumeRecord(
        id=VolumeId("v"),
        mode=mode,
        dynakube=dynakube,
        target="/t",
        state="mounted",
        tenant="t",
        version=version,
        layer=layer,
    )


class TestFindReferences:
    """One condition at a time; all others are empty."""

    DATA = DataDir(Path("/data"))

    def find(
        self,
        mounts: tuple[Mount, ...] = (),
        volumes: tuple[VolumeRecord, ...] = (),
        rows: tuple[DesiredState, ...] = (),
        installing: tuple[Version, ...] = (),
        dynakube_names: tuple[str, ...] = (),
    ) -> garbage_collector.References:
        # Iterators, because none of them may be iterated twice.
        return garbage_collector.find_references(
            self.DATA, iter(mounts), iter(volumes), iter(rows), iter(installing), iter(dynakube_names)
        )

    def test_nothing(self) -> None:
        assert self.find() == garbage_collector.References(frozenset(), frozenset(), frozenset())

    @pytest.mark.parametrize(
        "mount",
        [
            overlay("/data/agents/1", upper="/data/volumes/v/upper"),
            overlay("/data/config-layers/t/layer", "/data/agents/1", upper="/data/volumes/v/upper"),
            overlay("/data/volumes/v/upper", "/data/agents/1"),
            overlay("/elsewhere/data/agents/1", upper="/elsewhere/data/volumes/v/upper"),
            Mount(
                1,
                "/",
                "/pods/x",
                "overlay",
                False,
                ("lowerdir+=/data/config-layers/t/layer", "lowerdir+=/data/agents/1"),
            ),
        ],
        ids=["writable", "with a config layer", "read-only", "data directory by another path", "new mount call"],
    )
    def test_a_live_view_needs_its_version(self, mount: Mount) -> None:
        assert self.find(mounts=(mount,)).versions == {ONE}

    def test_a_live_view_needs_its_config_layer(self) -> None:
        assert self.find(mounts=(overlay("/data/config-layers/t/aa", "/data/agents/1"),)).layers == {
            "/data/config-layers/t/aa"
        }

    def test_other_overlays_need_nothing(self) -> None:
        assert not self.find(mounts=(overlay("/var/lib/docker/overlay2/l/ABC", upper="/x/upper"),)).versions

    def test_a_volume_row_needs_its_version_and_layer(self) -> None:
        references = self.find(volumes=(volume("1", layer="aa"),))
        assert references.versions == {ONE}
        assert references.layers == {"/data/config-layers/t/aa"}

    def test_a_dynakube_needs_its_version_and_layer_and_host_directory(self) -> None:
        references = self.find(rows=(desired("1", "aa"),))
        assert references == garbage_collector.References(
            frozenset({ONE}), frozenset({"/data/config-layers/t/aa"}), frozenset({"demo"})
        )

    @pytest.mark.parametrize(
        ("policy", "retained"),
        [("wait-then-last-good", True), ("wait", False), ("fail", False), ("last-good", True)],
    )
    def test_the_version_before_is_needed_where_it_may_be_mounted_again(self, policy: str, retained: bool) -> None:
        good = dataclasses.replace(desired("2", "bb"), mount_policy=policy, good_version=ONE, good_layer=LayerId("aa"))
        references = self.find(rows=(good,))
        assert (ONE in references.versions, "/data/config-layers/t/aa" in references.layers) == (retained, retained)

    def test_an_install_needs_its_version(self) -> None:
        assert self.find(installing=(ONE,)).versions == {ONE}

    @pytest.mark.parametrize(
        "root", ["/data/host-agents/demo", "/var/lib/kubelet/plugins/x/data/host-agents/demo", "/host-agents/demo"]
    )
    def test_a_bound_host_directory_is_needed_wherever_its_file_system_begins(self, root: str) -> None:
        assert self.find(mounts=(bind(root),)).hosts == {"demo"}

    def test_a_host_volumes_row_and_a_known_dynakube_need_the_host_directory(self) -> None:
        references = self.find(
            volumes=(volume(mode="host", dynakube="a"), volume("1", dynakube="b")), dynakube_names=("c",)
        )
        assert references.hosts == {"a", "c"}


def record(version: Version, size: int = 0, last: float = 0.0) -> VersionRecord:
    return VersionRecord(version, VersionState.READY, size_bytes=size, last_used_at=last)


class TestExpired:
    RECORDS: Final = {
        ONE: record(ONE, 100, last=30),
        TWO: record(TWO, 100, last=10),
        THREE: record(THREE, 100, last=20),
    }

    @pytest.mark.parametrize(
        ("keep", "budget", "gone"),
        [
            (0.0, 0, [TWO, THREE, ONE]),
            (75.0, 0, [TWO, THREE]),
            (1000.0, 0, []),
            (1000.0, 300, []),
            (1000.0, 299, [TWO]),
            (1000.0, 199, [TWO, THREE]),
            (1000.0, 1, [TWO, THREE, ONE]),
        ],
    )
    def test_by_age_and_by_budget_the_longest_unused_first(self, keep: float, budget: int, gone: list[Version]) -> None:
        policy = garbage_collector.RetentionPolicy(budget_bytes=budget, keep_unused_seconds=keep)
        assert garbage_collector.select_expired([ONE, TWO, THREE], self.RECORDS, policy, self.used, 100.0) == gone

    def test_a_version_without_a_row_goes_first(self) -> None:
        policy = garbage_collector.RetentionPolicy(budget_bytes=250, keep_unused_seconds=1000.0)
        assert garbage_collector.select_expired([ONE, Version("x")], self.RECORDS, policy, self.used, 100.0)[0] == "x"

    def test_shared_files_free_no_bytes(self) -> None:
        files = {ONE: {1: 50, 2: 50}, TWO: {1: 50, 3: 10}, THREE: {4: 30}}
        policy = garbage_collector.RetentionPolicy(budget_bytes=120, keep_unused_seconds=1000.0)
        gone = garbage_collector.select_expired(
            [TWO, THREE], self.RECORDS, policy, lambda gone: usage.bytes_without(files, gone), 100.0
        )
        assert gone == [TWO, THREE], "without TWO there are 130 bytes, and not the 80 that its size would leave"

    @staticmethod
    def used(gone: Collection[Version]) -> int:
        return 300 - 100 * len(gone)

    @given(
        st.dictionaries(st.sampled_from("abcdef").map(Version), st.tuples(st.integers(0, 50), st.floats(0, 99))),
        st.integers(1, 200),
    )
    def test_no_more_goes_than_the_budget_asks_for(self, found: dict[Version, tuple[int, float]], budget: int) -> None:
        records = {version: record(version, size, last) for version, (size, last) in found.items()}
        used = sum(size for size, _ in found.values())
        policy = garbage_collector.RetentionPolicy(budget_bytes=budget, keep_unused_seconds=1000.0)

        def used_without(gone: Collection[Version]) -> int:
            return used - sum(found[version][0] for version in gone)

        gone = garbage_collector.select_expired(found, records, policy, used_without, 100.0)
        left = used - sum(found[version][0] for version in gone)
        assert left <= budget
        assert not gone or left + found[gone[-1]][0] > budget
