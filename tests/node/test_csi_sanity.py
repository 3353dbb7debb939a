"""The conformance suite that CSI drivers are held to, with no spec left out by hand and with real mounts.

The specs that are skipped are those that csi-sanity itself skips: for RPCs that a node-only driver does
not advertise.
"""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from tests.fakes import controller_shim
from tests.node import upstream

SANITY_SECONDS: Final = 60

MOUNTING_SPECS: Final = {
    "NodeUnpublishVolume should remove target path",
    "NodeGetVolumeStats should fail when volume does not exist on the specified path",
    "should work",
    "should be idempotent",
}
"""The specs that publish and unpublish; they would be skipped if the shim's controller were not seen."""


@pytest.fixture
def program() -> Path:
    return upstream.program("csi-sanity")


def test_the_driver_passes_every_spec_that_applies_to_it(
    program: Path, driver: upstream.Driver, tmp_path: Path
) -> None:
    mounts = driver.target_root / "sanity"
    endpoint = tmp_path / "shim.sock"
    with controller_shim.ControllerShim(driver=driver.socket, endpoint=endpoint, volume_context=upstream.POD_CONTEXT):
        exit_code, specs = run(program, endpoint, mounts, tmp_path)
    assert exit_code == 0
    assert specs.keys() == {"passed", "pending", "skipped"}
    assert len(specs["passed"]) == 22
    assert {f"Node Service {spec}" for spec in MOUNTING_SPECS} <= specs["passed"]
    assert not mounts.exists(), "the suite could not remove its folder, so a target was left in it"


def run(program: Path, endpoint: Path, mounts: Path, scratch: Path) -> tuple[int, dict[str, set[str]]]:
    """The suite's exit code, and its specs' full names by what became of them."""
    report = scratch / "sanity.json"
    finished = subprocess.run(
        [
            program,
            f"--csi.endpoint=unix://{endpoint}",
            f"--csi.mountdir={mounts}",
            f"--csi.stagingdir={scratch / 'staging'}",
            "--ginkgo.no-color",
            f"--ginkgo.json-report={report}",
        ],
        stdin=subprocess.DEVNULL,
        timeout=SANITY_SECONDS,
        check=False,
    )
    specs = defaultdict[str, set[str]](set)
    for suite in json.loads(report.read_bytes()):
        for spec in suite["SpecReports"]:
            if spec["LeafNodeType"] == "It":
                name = " ".join([*spec["ContainerHierarchyTexts"], spec["LeafNodeText"]])
                specs[spec["State"]].add(name)
    return finished.returncode, dict(specs)
