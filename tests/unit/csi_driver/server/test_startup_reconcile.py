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
from oneagent.csi_driver.linux.mount_table import Mount, Overlay
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.server import startup_reconcile

DATA = DataDir(Path("/data"))
VOLUME = VolumeId("csi-1")


def target(volume: str) -> str:
    return f"/var/lib/kubelet/pods/uid-{volume}/volumes/kubernetes.io~csi/x/mount"


def row(state: str, **fields: Any) -> VolumeRecord:
    known: dict[str, Any] = {"id": VOLUME, "mode": "app", "dynakube": "demo", "target": target(VOLUME), "state": state}
    if state == "mounted":
        known["version"] = "1.0"
    return VolumeRecord(**(known | fields))


def view(volume: str = VOLUME, version: str = "1.0", *, read_only: bool = False, part: str = "") -> Overlay:
    agent, upper = DATA.agent(Version(version)), f"/data/volumes/{volume}/upper"
    place = f"/var/lib/kubelet/pods/uid-{volume}/volume-subpaths/x" if part else target(volume)
    mount = Mount(1, f"/{part}", place, "overlay", read_only, ())
    return Overlay(mount, (upper, agent), None) if read_only else Overlay(mount, (agent,), upper)


def plan(
    rows: Iterable[VolumeRecord] = (),
    views: Iterable[Overlay] = (),
    folders: Iterable[str] = (),
    *,
    mounted: bool = False,
    gone: bool = False,
) -> startup_reconcile.Plan:
    return startup_reconcile.plan(
        rows, views, [VolumeId(name) for name in folders], lambda _row: mounted, lambda _row: gone, DATA
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
    found = view()
    found = dataclasses.replace(found, lower=("/data/config-layers/abc/0123", *found.lower))
    (put,) = plan([], [found]).put
    assert (put.tenant, put.layer, put.version) == ("abc", "0123", "1.0")


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_view_and_its_parts_the_view_tells_the_target(order: int) -> None:
    (put,) = plan([], [view(), view(part="agent")][::order]).put
    assert put.target == target(VOLUME)


def test_a_folder_that_is_neither_mounted_nor_known_goes() -> None:
    assert plan([], [], [VOLUME]) == startup_reconcile.Plan(discard=[VOLUME])


def test_mounts_of_others_are_none_of_our_business() -> None:
    mount = Mount(1, "/", "/var/lib/containers/x", "overlay", False, ())
    others = [
        Overlay(mount, ("/data/agents/1.0",), "/elsewhere/upper"),
        Overlay(mount, ("/a", "/b"), None),
        Overlay(mount, (), None),
        Overlay(mount, ("/a",), "/data/volumes/csi-1/upper/deeper"),
        Overlay(mount, ("/a",), "/data/volumes/csi-1"),
    ]
    assert plan([], others) == NOTHING


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
            DATA,
        )

    first = planned(folders)
    assert not views.keys() & {*first.drop, *first.discard}
    records |= {record.id: record for record in first.put}
    for name in first.drop:
        del records[name]
    assert {name for name, record in records.items() if record.state == "mounted"} >= views.keys()
    assert planned(folders - {*first.discard, *first.drop}) == NOTHING
