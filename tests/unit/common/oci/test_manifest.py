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

    def test_that_is_not_there_is_said_with_what_is(self) -> None:
        found = index("linux/amd64/v3", "windows/amd64", "unknown/unknown")
        with pytest.raises(
            UnsupportedPackageError, match="no image for linux on x86_64, only for linux/amd64/v3, windows/"
        ):
            manifest.choose_image(found, "r.example/a", "x86_64")

    def test_is_checked_without_an_index_too(self) -> None:
        manifest.check_config(b'{"os": "linux", "architecture": "arm64"}', "r.example/a", "aarch64")
        with pytest.raises(UnsupportedPackageError, match="is for linux/arm64, this is linux on x86_64"):
            manifest.check_config(b'{"os": "linux", "architecture": "arm64"}', "r.example/a", "x86_64")
        with pytest.raises(CorruptPackageError, match="not an image's configuration"):
            manifest.check_config(b"[]", "r.example/a", "x86_64")
