"""Agents that were carried to the node, by docs/air-gap.md: no registry, no network, a tenant only if one is named."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneagent.csi_driver.store import store_key
from tests.cluster import buildah
from tests.fakes import images, node, packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import eventually

PAGE = Path(__file__).parents[2] / "docs/air-gap.md"
HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
LIBRARY = "agent/lib64/liboneagentproc.so"


def of_the_page(title: str, data: Path) -> dict[str, Any]:
    """The DynaKube of a section, with the driver's data folder where it is here."""
    section = PAGE.read_text().partition(f"## {title}\n")[2]
    text = section.partition("```yaml\n")[2].partition("```")[0]
    assert text.count("/data/") == 1
    found: dict[str, Any] = yaml.safe_load(text.replace("/data/", f"{data}/"))
    return found


def an_image(architecture: str = HERE) -> images.Image:
    return images.image(images.tar(*images.agent()), architecture=architecture)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[node.Driver]:
    driver = node.Driver(tmp_path, "--publish-wait=10s")
    try:
        yield driver
    finally:
        driver.kill()
        node.unmount_all(driver)


def test_a_package_below_the_data_folder_is_mounted_and_stays(tmp_path: Path, driver: node.Driver) -> None:
    kubelet = driver.start()
    with provisioner.running(tmp_path) as process:
        data = Path(process.data.root)
        (data / "packages").mkdir()
        package = packages.build(data / "packages/agent.zip")
        process.set_dynakubes(of_the_page("Packages from the nodes' disks", data))
        eventually(lambda: process.row("shop"))
        view = kubelet.publish("cart", dynakube="shop")
        assert (view / LIBRARY).exists()
        (version,) = process.versions()
        assert version.startswith("zip-sha256-")
        # What the collector takes shows that it was here.
        unused = process.data.config_layers / "shop" / "0123456789abcdef"
        unused.mkdir(parents=True)
        eventually(lambda: not unused.exists())
        assert package.exists()


def test_an_image_in_a_folder_is_mounted(tmp_path: Path, driver: node.Driver) -> None:
    kubelet = driver.start()
    with provisioner.running(tmp_path) as process:
        data = Path(process.data.root)
        several = images.index((f"linux/{HERE}", an_image()), ("linux/riscv64", an_image("riscv64")))
        images.write_layout(
            data / "images/agent", (several, images.index_entry("1.277")), (an_image(), images.index_entry("1.276"))
        )
        process.set_dynakubes(of_the_page("Images from the nodes' disks", data))
        eventually(lambda: process.row("shop"))
        view = kubelet.publish("cart", dynakube="shop")
        assert (view / LIBRARY).exists()
        assert process.versions() == [store_key.of_image(several.digest)]


def preload(process: provisioner.Process, what: Path | str) -> None:
    """Run the command, and wait until the provisioner has taken what it brought."""
    command = [sys.executable, "-m", "oneagent.csi_driver.cli.main", "preload", f"--data-dir={process.data.root}"]
    subprocess.run([*command, str(what)], check=True, timeout=60)
    eventually(process.versions)


@pytest.mark.skipif(not shutil.which("buildah"), reason="buildah is not installed")
def test_a_folder_that_buildah_has_written_is_preloaded(tmp_path: Path, driver: node.Driver) -> None:
    context = tmp_path / "context"
    with zipfile.ZipFile(packages.build(tmp_path / "agent.zip")) as archive:
        archive.extractall(context)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    store = buildah.Store(tmp_path / "store", tmp_path / "buildah.log")
    store.build("agent:1", context, tmp_path / "Dockerfile", {})
    store.lay("agent:1", tmp_path / "agent", "1.277")
    kubelet = driver.start()
    with provisioner.running(tmp_path) as process:
        preload(process, f"oci-layout:{tmp_path}/agent:1.277")
        process.set_dynakubes(provisioner.manifest("shop", image=f"oci-layout:{tmp_path}/agent:1.277"))
        eventually(lambda: process.row("shop"))
        view = kubelet.publish("cart", dynakube="shop")
        assert (view / LIBRARY).exists()
        assert {row["source"] for row in provisioner.table(process.data, "versions")} == {"preload"}


def test_an_image_that_was_preloaded_needs_no_registry(tmp_path: Path, driver: node.Driver) -> None:
    kubelet = driver.start()
    with double.Tenant() as server, provisioner.running(tmp_path) as process:
        folder = images.write_layout(tmp_path / "agent", (an_image(), {}))
        preload(process, folder)
        away = f"localhost:1/team/agent@{an_image().digest}"
        process.set_dynakubes(provisioner.manifest("shop", server.api_url, image=away))
        eventually(lambda: process.row("shop"))
        view = kubelet.publish("cart", dynakube="shop")
        assert (view / LIBRARY).exists()
