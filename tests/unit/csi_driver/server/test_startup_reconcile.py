"""The plan of a start: three truths compared, nothing touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common.identifiers import Version
from oneagent.csi_driver.data_dir import DataDir, VolumeId
from oneagent.csi_driver.linux.mount_table import Mount
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.server import startup_reconcile
from oneagent.csi_driver.store import mounted_views
from oneagent.csi_driver.store.mounted_views import MountedView

DATA = DataDir(Path("/data"))
VOLUME = VolumeId("csi-1")


def target(volume: str) -> str:
    return f"/var/lib/kubelet/pods/uid-{volume}/volumes/kubernetes.io~csi/x/mount"


def row(state: str, **fields: Any) -> VolumeRecord:
    known: dict[str, Any] = {"id": VOLUME, "mode": "app", "dynakube": "demo", "target": target(VOLUME), "state": state}
    if state == "mounted":
        known["version"] = "1.0"
    return VolumeRecord(**(known | fields))


def view(volume: str = VOLUME, version: str = "1.0", *, read_only: bool = False, part: str = "") -> MountedView:
    agent, upper = DATA.agent(Version(version)), f"/data/volumes/{volume}/upper"
    place = f"/var/lib/kubelet/pods/uid-{volume}/volume-subpaths/x" if part else target(volume)
    layers = (f"lowerdir={upper}:{agent}",) if read_only else (f"lowerdir={agent}", f"upperdir={upper}")
    (found,) = mounted_views.find([Mount(1, f"/{part}", place, "overlay", read_only, layers)], DATA)
    return found


def binds(volume: str = VOLUME, version: str = "1.0", *, writable: bool = False) -> list[Mount]:
    """The mounts of a view for a pod with a user namespace; without a version the first half of them."""
    files = Mount(1, f"/disk/data/volumes/{volume}/upper", target(volume), "ext4", True, (), "8:1")
    agent = Mount(2, f"/disk/data/agents/{version}", f"{target(volume)}/bin", "ext4", not writable, (), "8:1")
    return [files, agent] if version else [files]


def plan(
    rows: Iterable[VolumeRecord] = (),
    views: Iterable[MountedView] = (),
    folders: Iterable[str] = (),
    *,
    mounted: bool = False,
    gone: bool = False,
    own: bool = True,
) -> startup_reconcile.Plan:
    return startup_reconcile.plan(
        rows,
        views,
        [VolumeId(name) for name in folders],
        lambda _row: mounted,
        lambda _row: gone,
        lambda _view: own,
    )


NOTHING = startup_reconcile.Plan()


@pytest.mark.parametrize("state", ["waiting", "empty", "mounted"])
def test_a_row_that_agrees_with_the_mounts_stays(state: str) -> None:
    views = [view()] if state == "mounted" else []
    assert plan([row(state)], views, [VOLUME], mounted=bool(views)) == NOTHING


def test_a_row_of_a_mount_that_a_reboot_took_stays_with_its_version() -> None:
    assert plan([row("mounted")], [], [VOLUME]) == NOTHING


@pytest.mark.parametrize("state", ["waiting", "empty", "mounted"])
def test_the_row_of_a_pod_that_is_gone_goes(state: str) -> None:
    assert plan([row(state)], gone=True) == startup_reconcile.Plan(drop=[VOLUME])


def test_a_mount_is_never_dropped_even_if_its_pod_seems_to_be_gone() -> None:
    assert plan([row("mounted")], [view()], gone=True, mounted=True) == NOTHING
    assert plan([row("mounted")], [], gone=True, mounted=True) == NOTHING


@pytest.mark.parametrize("state", ["waiting", "empty"])
def test_a_row_whose_mount_came_before_the_crash_says_so_afterwards(state: str) -> None:
    before = row(state, attempts=3, first_failed_at=5.0, reason="not in the store")
    assert plan([before], [view()], mounted=True).put == [row("mounted")]


def test_a_row_from_before_the_last_mount_takes_its_version_from_the_mount() -> None:
    (put,) = plan([row("mounted")], [view(version="2.0")], mounted=True).put
    assert put == row("mounted", version="2.0")


@pytest.mark.parametrize("state", ["waiting", "empty", "mounted"])
def test_the_row_of_a_view_has_the_views_own_mount_point(state: str) -> None:
    earlier = row(state, target=target("another"), attempts=1, reason="not in the store")
    (adopted,) = plan([earlier], [view()], [VOLUME], mounted=True).put
    assert (adopted.target, adopted.state, adopted.version) == (target(VOLUME), "mounted", "1.0")


def test_a_view_that_is_bound_elsewhere_too_keeps_its_own_mount_point() -> None:
    bound = dataclasses.replace(view().mount, target="/somewhere/else")
    assert plan([row("mounted")], [view(), dataclasses.replace(view(), mount=bound)], [VOLUME], mounted=True) == NOTHING
    assert plan([row("mounted")], [view(part="agent")], [VOLUME], mounted=True) == NOTHING


@pytest.mark.parametrize("read_only", [False, True])
def test_a_mount_without_a_row_gets_one(read_only: bool) -> None:
    (put,) = plan([], [view(read_only=read_only)], [VOLUME]).put
    assert (put.id, put.target, put.state, put.version) == (VOLUME, target(VOLUME), "mounted", "1.0")
    assert (put.read_only, put.mode) == (read_only, "app")


def test_the_config_layer_of_a_mount_is_found_too() -> None:
    layers = ("lowerdir=/data/config-layers/abc/0123:/data/agents/1.0", "upperdir=/data/volumes/csi-1/upper")
    (put,) = plan([], mounted_views.find([Mount(1, "/", target(VOLUME), "overlay", False, layers)], DATA)).put
    assert (put.tenant, put.layer, put.version) == ("abc", "0123", "1.0")


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_view_and_its_parts_the_view_tells_the_target(order: int) -> None:
    (put,) = plan([], [view(), view(part="agent")][::order]).put
    assert put.target == target(VOLUME)


def test_a_folder_that_is_neither_mounted_nor_known_goes() -> None:
    assert plan([], [], [VOLUME]) == startup_reconcile.Plan(discard=[VOLUME])


def test_mounts_of_others_are_none_of_our_business() -> None:
    others = [
        ("lowerdir=/data/agents/1.0", "upperdir=/elsewhere/upper"),
        ("lowerdir=/a:/b",),
        (),
        ("lowerdir=/a", "upperdir=/data/volumes/csi-1/upper/deeper"),
        ("lowerdir=/a", "upperdir=/data/volumes/csi-1"),
    ]
    mounts = [Mount(1, "/", "/var/lib/containers/x", "overlay", False, options) for options in others]
    assert mounted_views.find(mounts, DATA) == []


def test_a_host_agents_row_whose_mount_came_before_the_crash_says_so_afterwards() -> None:
    waiting = row("waiting", mode="host", reason="mount started")
    assert plan([waiting], [], mounted=True).put == [row("mounted", mode="host", version="")]


states = st.sampled_from(["waiting", "empty", "mounted"])
names = st.sampled_from(["a", "b", "c", "d"])


@given(
    rows=st.dictionaries(names, states),
    views=st.dictionaries(names, st.sampled_from(["1.0", "2.0"])),
    folders=st.sets(names),
    gone=st.sets(names),
)
def test_no_plan_touches_what_is_mounted_and_a_second_one_finds_nothing_to_do(
    rows: dict[str, str], views: dict[str, str], folders: set[str], gone: set[str]
) -> None:
    records = {name: row(state, id=VolumeId(name), target=target(name)) for name, state in rows.items()}
    overlays = [view(name, version) for name, version in views.items()]

    def planned(on_disk: set[str]) -> startup_reconcile.Plan:
        return startup_reconcile.plan(
            records.values(),
            overlays,
            [VolumeId(name) for name in sorted(on_disk)],
            lambda record: record.id in views,
            lambda record: record.id in gone,
            lambda _view: True,
        )

    first = planned(folders)
    assert not views.keys() & {*first.drop, *first.discard}
    records |= {record.id: record for record in first.put}
    for name in first.drop:
        del records[name]
    assert {name for name, record in records.items() if record.state == "mounted"} >= views.keys()
    assert planned(folders - {*first.discard, *first.drop}) == NOTHING


class TestBinds:
    def test_of_a_volume_and_its_version_are_a_view(self) -> None:
        (found,) = mounted_views.find(binds(), DATA)
        assert (found.volume, found.version, found.read_only, found.is_complete) == (VOLUME, "1.0", True, True)
        (adopted,) = plan((), [found], [VOLUME]).put
        assert (adopted.state, adopted.version, adopted.target) == ("mounted", "1.0", target(VOLUME))
        assert plan([row("mounted", tenant="t", layer="l")], [found], [VOLUME], mounted=True) == NOTHING

    def test_of_a_quarantined_version_tell_its_name(self) -> None:
        (files, agent) = binds()
        moved = dataclasses.replace(agent, root="/disk/data/trash/1.0.18ab")
        assert [found.version for found in mounted_views.find([files, moved], DATA)] == ["1.0"]

    @pytest.mark.parametrize("mounts", [binds(version=""), binds(writable=True)], ids=["no agent", "writable agent"])
    def test_without_an_agent_that_is_read_only_are_half_a_view(self, mounts: list[Mount]) -> None:
        (found,) = mounted_views.find(mounts, DATA)
        assert not found.is_complete
        assert [(adopted.state, adopted.version) for adopted in plan((), [found], [VOLUME]).put] == [("waiting", "")]
        assert plan([row("waiting")], [found], [VOLUME], mounted=True) == NOTHING

    def test_that_only_look_like_a_volume_are_no_row_and_keep_its_directory(self) -> None:
        (fake,) = mounted_views.find(binds(version=""), DATA)
        assert plan((), [fake], [VOLUME], own=False) == NOTHING
        assert plan([row("mounted")], [fake], [VOLUME], mounted=True, own=False) == NOTHING

    def test_of_parts_keep_the_volume_and_are_no_row(self) -> None:
        (files, _) = binds()
        part = dataclasses.replace(files, root=f"{files.root}/agent/conf/container_app.conf", target="/subpath")
        foreign = dataclasses.replace(files, root="/pods/1/volumes/kubernetes.io~csi/upper/mount", target="/x")
        assert plan((), mounted_views.find([part, foreign], DATA), [VOLUME]) == NOTHING
