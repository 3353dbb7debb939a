"""Manifests: which are read, which image of an index is taken, and what is refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common import unpack
from oneagent.common.oci import manifest
from oneagent.common.unpack import CorruptPackageError, PackageError, PackageTooLargeError, UnsupportedPackageError
from tests.fakes import images

LAYER = b"not looked at here"


def layers(document: Any) -> list[manifest.Descriptor]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return manifest.layers(manifest.parse(body, "r.example/a"), "r.example/a", unpack.UnpackLimits())


def test_a_layer_without_a_type_is_read_by_its_content() -> None:
    assert len(layers(with_layer(mediaType=""))) == 1


def changed(**fields: Any) -> Any:
    return json.loads(images.image(LAYER, **fields).manifest)


def with_layer(**fields: Any) -> Any:
    document = changed()
    document["layers"][0] |= fields
    return document


def index(*platforms: str) -> manifest.Manifest:
    built = images.index(*((text, images.image(text.encode())) for text in platforms))
    return manifest.parse(built.manifest, "r.example/a")


@pytest.mark.parametrize(
    ("kind", "said", "document"),
    [
        (CorruptPackageError, "not a manifest", b"<html>"),
        (CorruptPackageError, "not a manifest", b'{"schemaVersion": "2"}'),
        (CorruptPackageError, "not a manifest", b"\xff"),
        (UnsupportedPackageError, "version 1", {"schemaVersion": 1, "fsLayers": []}),
        (UnsupportedPackageError, "version 0", {}),
        (CorruptPackageError, "either an image or an index", {"schemaVersion": 2}),
        (CorruptPackageError, "either an image or an index", changed(manifests=[])),
        (UnsupportedPackageError, "has 0 layers", changed(layers=[])),
        (UnsupportedPackageError, "has 200 layers", changed(layers=changed()["layers"] * 200)),
        (UnsupportedPackageError, "64 hex digits", with_layer(digest="sha512:" + "0" * 128)),
        (UnsupportedPackageError, "64 hex digits", with_layer(digest="sha256:../../x")),
        (UnsupportedPackageError, "of -1 bytes", with_layer(size=-1)),
        (PackageTooLargeError, "more than 4,294,967,296", with_layer(size=1 << 40)),
        (UnsupportedPackageError, "of the type", with_layer(mediaType="application/vnd.oci.image.layer.v1.tar+bzip2")),
        (UnsupportedPackageError, "of the type", with_layer(mediaType=f"{images.OCI}.layer.v1.tar+gzip+encrypted")),
        (
            UnsupportedPackageError,
            "of the type",
            with_layer(mediaType=f"{images.DOCKER}.image.rootfs.foreign.diff.tar.gzip"),
        ),
        (UnsupportedPackageError, "of the type", with_layer(mediaType="application/vnd.cncf.helm.chart.content.v1")),
    ],
)
def test_a_bad_manifest_is_refused(kind: type[PackageError], said: str, document: Any) -> None:
    with pytest.raises(kind, match=said) as refused:
        layers(document)
    assert str(refused.value).startswith("r.example/a: ")
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=80) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode))
def test_any_document_is_read_or_refused(body: bytes) -> None:
    with pytest.raises(PackageError):
        layers(body)


class TestTheImageForAMachine:
    @pytest.mark.parametrize(
        ("machine", "listed", "taken"),
        [
            ("x86_64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
            ("aarch64", ["linux/amd64", "linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
            ("x86_64", ["linux/amd64/v3", "linux/amd64/v1"], "linux/amd64/v1"),
            ("x86_64", ["windows/amd64", "linux/amd64"], "linux/amd64"),
            ("x86_64", ["unknown/unknown", "linux/amd64"], "linux/amd64"),
            ("s390x", ["linux/amd64", "linux/s390x"], "linux/s390x"),
        ],
    )
    def test_is_taken_from_an_index(self, machine: str, listed: list[str], taken: str) -> None:
        chosen = manifest.choose_image(index(*listed), "r.example/a", machine)
        assert str(chosen.platform) == taken

    @pytest.mark.parametrize(
        "platform",
        [
            *(None, {}, {"os": "", "architecture": ""}, {"os": None, "architecture": None}),
            *({"os": "linux"}, {"architecture": "amd64"}, {"os": "linux", "architecture": "amd64", "variant": None}),
        ],
        ids=str,
    )
    def test_is_not_excluded_by_what_an_index_leaves_out(self, platform: dict[str, Any] | None) -> None:
        document = json.loads(images.index(("linux/arm64", images.image(b"1")), ("", images.image(b"2"))).manifest)
        document["manifests"][1]["platform"] = platform
        if platform is None:
            del document["manifests"][1]["platform"]
        listed = manifest.parse(json.dumps(document).encode(), "r.example/a")
        assert manifest.choose_image(listed, "r.example/a", "x86_64").digest == images.image(b"2").digest

    def test_that_is_named_comes_before_one_that_may_be(self) -> None:
        document = json.loads(images.index(("", images.image(b"1")), ("linux/amd64", images.image(b"2"))).manifest)
        listed = manifest.parse(json.dumps(document).encode(), "r.example/a")
        assert manifest.choose_image(listed, "r.example/a", "x86_64").digest == images.image(b"2").digest

    @pytest.mark.parametrize("platform", [{"os": "windows"}, {"architecture": "arm64"}, {"variant": "v3"}], ids=str)
    def test_is_excluded_by_each_part_that_is_there(self, platform: dict[str, Any]) -> None:
        document = json.loads(images.index(("", images.image(b"1"))).manifest)
        document["manifests"][0]["platform"] = platform
        with pytest.raises(UnsupportedPackageError, match="no image for linux on x86_64"):
            manifest.choose_image(manifest.parse(json.dumps(document).encode(), "r"), "r", "x86_64")

    def test_that_is_not_there_is_said_with_what_is(self) -> None:
        found = index("linux/amd64/v3", "windows/amd64", "unknown/unknown")
        with pytest.raises(
            UnsupportedPackageError, match="no image for linux on x86_64, only for linux/amd64/v3, windows/"
        ):
            manifest.choose_image(found, "r.example/a", "x86_64")

    @pytest.mark.parametrize(
        "config",
        ["{}", '{"os": "", "architecture": ""}', '{"os": null, "architecture": null}', '{"os": "linux"}'],
    )
    def test_is_not_excluded_by_what_a_configuration_leaves_out(self, config: str) -> None:
        manifest.check_config(config.encode(), "r.example/a", "x86_64")

    def test_is_checked_without_an_index_too(self) -> None:
        manifest.check_config(b'{"os": "linux", "architecture": "arm64"}', "r.example/a", "aarch64")
        with pytest.raises(UnsupportedPackageError, match="is for linux/arm64, this is linux on x86_64"):
            manifest.check_config(b'{"os": "linux", "architecture": "arm64"}', "r.example/a", "x86_64")
        with pytest.raises(CorruptPackageError, match="not an image's configuration"):
            manifest.check_config(b"[]", "r.example/a", "x86_64")
