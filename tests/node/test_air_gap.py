"""A package that was carried to the node, as docs/air-gap.md has it: no tenant, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.fakes import node, packages, provisioning
from tests.fakes.provisioning import eventually

PAGE = Path(__file__).parents[2] / "docs/air-gap.md"
LIBRARY = "agent/lib64/liboneagentproc.so"


def of_the_page(data: Path) -> dict[str, Any]:
    """The page's DynaKube, with the driver's data folder where it is here."""
    section = PAGE.read_text().partition("## Packages from the nodes' disks")[2]
    text = section.partition("```yaml\n")[2].partition("```")[0]
    assert "file:///data/" in text
    found: dict[str, Any] = yaml.safe_load(text.replace("file:///data/", f"file://{data}/"))
    return found


def test_a_package_below_the_data_folder_is_mounted_and_stays(tmp_path: Path) -> None:
    driver = node.Driver(tmp_path, "--publish-wait=10s")
    try:
        kubelet = driver.start()
        with provisioning.running(tmp_path) as process:
            data = Path(process.folder.root)
            (data / "packages").mkdir()
            package = packages.build(data / "packages/agent.zip")
            process.want(of_the_page(data))
            view = kubelet.publish("cart", dynakube="shop")
            assert (view / LIBRARY).exists()
            (version,) = process.versions()
            assert version.startswith("sha256-")
            # What the collector takes shows that it was here.
            unused = process.folder.tenants / "shop" / "0123456789abcdef"
            unused.mkdir(parents=True)
            eventually(lambda: not unused.exists())
            assert package.exists()
    finally:
        driver.kill()
        node.unmount_all(driver)
