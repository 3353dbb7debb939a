"""Which version a volume gets, and that it keeps it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.csi_driver.data_dir import LayerId, VolumeId
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.store import store_key
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, refused

LIBRARY = "agent/lib64/liboneagentproc.so"
OLD, NEW = store_key.of_version(Version("1.0.0"), "tests"), store_key.of_image("sha256:" + "0123456789abcdef" * 4)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with node.running(tmp_path_factory.mktemp("versions"), "--publish-wait=100ms") as (driver, _):
        node.install(driver.data, OLD, b"old")
        node.install(driver.data, NEW, b"new")
        yield driver


def config_layer(driver: Driver, tenant: TenantId, layer: LayerId, content: str) -> None:
    folder = driver.data.config_layer(tenant, layer) / "agent/conf"
    folder.mkdir(parents=True)
    (folder / "ruxitagentproc.conf").write_text(content)


def overlay(kubelet: Kubelet, pod: str) -> mount_table.Overlay:
    mount = mount_table.top_at(mount_table.read(), str(kubelet.target(pod)))
    assert mount is not None
    found = mount_table.as_overlay(mount)
    assert found is not None
    return found


def test_each_dynakube_has_its_own_version_and_configuration_side_by_side(driver: Driver, kubelet: Kubelet) -> None:
    tenants = {name: TenantId(f"tenant-{name}") for name in ("one", "two")}
    wanted = []
    for name, version in (("one", OLD), ("two", NEW)):
        config_layer(driver, tenants[name], LayerId("aa"), f"config of {name}")
        wanted.append(node.demo(name=DynaKubeName(name), version=version, tenant=tenants[name], layer=LayerId("aa")))
    node.want(driver.data, *wanted)
    for name, content in (("one", b"old"), ("two", b"new")):
        view = kubelet.publish(f"side-{name}", dynakube=name)
        assert (view / LIBRARY).read_bytes() == content
        assert (view / "agent/conf/ruxitagentproc.conf").read_text() == f"config of {name}"


def test_a_running_pod_keeps_its_version_when_another_one_is_wanted(driver: Driver, kubelet: Kubelet) -> None:
    node.want(driver.data, node.demo(version=OLD))
    running = kubelet.publish("running")
    node.want(driver.data, node.demo(version=NEW))
    started = kubelet.publish("started")
    kubelet.publish("running")
    assert (running / LIBRARY).read_bytes() == b"old"
    assert (started / LIBRARY).read_bytes() == b"new"


@pytest.mark.parametrize("killed", [False, True])
def test_a_volume_keeps_its_version_and_configuration_over_a_reboot(
    driver: Driver, kubelet: Kubelet, killed: bool
) -> None:
    pod = f"rebooted-{killed}".lower()
    tenant = TenantId("abc12345")
    for layer in (LayerId(f"old{killed}"), LayerId(f"new{killed}")):
        config_layer(driver, tenant, layer, layer)
    node.want(driver.data, node.demo(version=OLD, layer=LayerId(f"old{killed}")))
    (kubelet.publish(pod) / "agent/mark").write_text("written before the reboot")
    if killed:
        eventually(lambda: driver.state(pod) == "mounted")
        driver.kill()
    else:
        driver.stop()
    node.unmount_all(driver)
    node.want(driver.data, node.demo(version=NEW, layer=LayerId(f"new{killed}")))
    kubelet = driver.start()
    view = kubelet.publish(pod)
    assert (view / LIBRARY).read_bytes() == b"old"
    assert (view / "agent/conf/ruxitagentproc.conf").read_text() == f"old{killed}"
    # A restarted container is a new one: what the old one wrote into the view is not shown to it.
    assert not (view / "agent/mark").exists()
    kubelet.unpublish(pod)


def test_a_read_only_view_has_the_same_layers_without_an_upper_one(driver: Driver, kubelet: Kubelet) -> None:
    node.want(driver.data, node.demo(version=OLD))
    view = kubelet.publish("reader", read_only=True)
    layers = overlay(kubelet, "reader")
    assert layers.upper is None
    config = driver.data.config_layer_path(node.demo().tenant, node.LAYER)
    assert layers.lower == (driver.data.volume(VolumeId("csi-reader")).upper, config, driver.data.agent(OLD))
    assert (view / LIBRARY).read_bytes() == b"old"
    kubelet.unpublish("reader")


def test_a_volume_that_is_known_to_the_mount_table_only_is_adopted(driver: Driver, kubelet: Kubelet) -> None:
    """Its pod may have a part of the view mounted elsewhere, as kubelet does for a subPath."""
    node.want(driver.data, node.demo(version=OLD))
    view = kubelet.publish("adopted")
    part = kubelet.root / "pods/adopted/volume-subpaths/oneagent-bin/app/0"
    part.mkdir(parents=True)
    subprocess.run(["mount", "--bind", view / "agent", part], check=True)
    driver.kill()
    for file in driver.data.root.glob("metadata.db*"):
        file.unlink()
    kubelet = driver.start()
    row = driver.rows()["csi-adopted"]
    assert (row["state"], row["version"], row["target"]) == ("mounted", OLD, str(view))
    kubelet.publish("adopted")
    assert driver.rows()["csi-adopted"]["dynakube"] == "demo"
    subprocess.run(["umount", part], check=True)
    kubelet.unpublish("adopted")
    assert not view.exists()
    assert "csi-adopted" not in driver.rows()


def test_a_host_agents_folder_is_known_again_after_the_database_was_lost(driver: Driver, kubelet: Kubelet) -> None:
    target = kubelet.publish("oldhost", mode="host")
    driver.kill()
    for file in driver.data.root.glob("metadata.db*"):
        file.unlink()
    kubelet = driver.start()
    kubelet.publish("oldhost", mode="host")
    kubelet.unpublish("oldhost")
    assert not target.exists()


def test_an_unknown_host_agents_folder_is_unmounted_and_kept(driver: Driver, kubelet: Kubelet) -> None:
    target = kubelet.publish("losthost", mode="host")
    (target / "state").write_text("kept")
    driver.kill()
    for file in driver.data.root.glob("metadata.db*"):
        file.unlink()
    kubelet = driver.start()
    kubelet.unpublish("losthost")
    assert not target.exists()
    assert (driver.data.host_agent_directory(DynaKubeName("demo")) / "state").read_text() == "kept"


def test_the_rows_of_pods_that_went_away_while_the_driver_was_down_are_dropped(
    driver: Driver, kubelet: Kubelet
) -> None:
    node.want(driver.data, node.demo(version=OLD))
    target = kubelet.publish("vanished")
    driver.kill()
    subprocess.run(["umount", target], check=True)
    target.rmdir()
    kubelet.forget("vanished")
    driver.start()
    assert "csi-vanished" not in driver.rows()
    assert "csi-vanished" not in os.listdir(driver.data.volumes)
    assert Path(driver.data.agent(OLD)).is_dir()


@pytest.mark.parametrize("name", ["1.2.3", "sha256-" + "0" * 64])
def test_a_tree_that_an_older_driver_stored_is_never_mounted(driver: Driver, kubelet: Kubelet, name: str) -> None:
    """Also not for a volume that has had it, as after a reboot of the node."""
    unproven, pod = Version(name), f"upgraded-{name[:6]}"
    node.install(driver.data, unproven, b"of an unknown source")
    node.want(driver.data, node.demo(version=unproven, good_version=unproven, mount_policy="last-good"))
    with refused(grpc.StatusCode.UNAVAILABLE, f"version {name} is not in the store"):
        kubelet.publish(pod)
    node.want(driver.data, node.demo(version=NEW))
    view = kubelet.publish(pod)
    eventually(lambda: driver.state(pod) == "mounted")
    driver.stop()
    with contextlib.closing(sqlite3.connect(driver.data.database)) as rows, rows:
        rows.execute("UPDATE volumes SET version = ? WHERE id = ?", (name, kubelet.volume_id(pod)))
    subprocess.run(["umount", view], check=True)
    kubelet = driver.start()
    assert (kubelet.publish(pod) / LIBRARY).read_bytes() == b"new"
    kubelet.unpublish(pod)
