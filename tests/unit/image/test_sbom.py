"""The list of what an image is made of."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from deploy.image import sbom

DIGEST = "ab" * 32


def installed(name: str, version: str = "1.0", *, old: bool = False) -> dict[str, Any]:
    """An entry of pip's report; older releases of pip tell the hash in another field."""
    archive: dict[str, Any] = {"hash": f"sha256={DIGEST}"} if old else {"hashes": {"sha256": DIGEST}}
    return {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": "https://packages.example.com/a.whl", "archive_info": archive},
    }


def distribution(folder: Path, name: str, *lines: str) -> metadata.PackageMetadata:
    """One that is installed in a folder, with these lines in its metadata."""
    place = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("\n".join(("Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines)))
    return metadata.Distribution.at(place).metadata


def report(*items: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1", "install": list(items)}


@pytest.mark.parametrize("old", [False, True])
def test_a_distribution_has_version_licence_address_and_hash(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "Foo.Bar_baz", "License-Expression: MIT")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = sbom.distributions(report(installed("Foo.Bar_baz", old=old)))
    assert (found["name"], found["version"]) == ("Foo.Bar_baz", "1.0")
    assert found["purl"] == "pkg:pypi/foo-bar-baz@1.0"
    assert found["licenses"] == [{"expression": "MIT"}]
    assert found["hashes"] == [{"alg": "SHA-256", "content": DIGEST}]
    assert "packages.example.com" not in json.dumps(found)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License-Expression: MIT OR PSF-2.0", "License: old"], {"expression": "MIT OR PSF-2.0"}),
        (["License: 3-Clause BSD License"], {"license": {"name": "3-Clause BSD License"}}),
        (
            ["License: Copyright (c)", " and so on", "Classifier: License :: OSI Approved :: MIT License"],
            {"license": {"id": "MIT"}},
        ),
        (["Classifier: Topic :: X", "Classifier: License :: Other"], {"license": {"name": "Other"}}),
        ([], {"license": {"name": "unknown"}}),
    ],
)
def test_the_licence_is_what_the_distribution_says(lines: list[str], expected: dict[str, Any], tmp_path: Path) -> None:
    assert sbom.licence(distribution(tmp_path, "some", *lines)) == expected


def test_files_of_the_base_are_listed_with_their_package_and_hash(tmp_path: Path) -> None:
    alone, owned = tmp_path / "alone.so", tmp_path / "owned.so"
    alone.write_bytes(b"1")
    owned.write_bytes(b"2")
    package = {"name": "libc6", "version": "1:2.36-9+deb12u14", "architecture": "arm64"}
    file, library = sbom.base({str(alone): {}, str(owned): package})
    assert file["name"] == str(alone)
    assert library["purl"] == "pkg:deb/debian/libc6@1:2.36-9%2Bdeb12u14?arch=arm64"
    (inside,) = library["components"]
    assert inside["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"2").hexdigest()}]


def test_the_same_image_gives_the_same_bytes_in_whatever_order_it_was_installed(tmp_path: Path) -> None:
    items = [installed(name) for name in (sbom.OURS, "zeta", "alpha")]
    for item in items:
        distribution(tmp_path, item["metadata"]["name"], "License: MIT")
    (tmp_path / "base.json").write_text("{}")
    outputs = set()
    for number, order in enumerate((items, items[::-1])):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(report(*order)))
        command = [sys.executable, sbom.__file__, str(tmp_path / "base.json"), str(file)]
        outputs.add(
            subprocess.run(
                command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}
            ).stdout
        )
    (output,) = outputs
    document = json.loads(output)
    assert document["metadata"]["component"]["name"] == sbom.OURS
    assert [each["name"] for each in document["components"]] == ["python", "alpha", "zeta"]
