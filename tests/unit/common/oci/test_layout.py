"""Images in layouts: choice of the image, reading, and refusals in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oneagent.common import unpack
from oneagent.common.http import download
from oneagent.common.oci import image as oci_image
from oneagent.common.oci import layout, manifest, public_keys, signatures
from oneagent.common.oci import reference as oci_reference
from oneagent.common.oci.reference import LayoutReference
from tests.fakes import images as making
from tests.fakes import signing
from tests.fakes.images import index_entry, write_layout

ONE = making.image(making.tar(making.MINIMAL), architecture=making.HERE)
TWO = making.image(making.tar(making.MINIMAL, making.Entry("two")), how="zstd", architecture=making.HERE)
SEVERAL = making.index((f"linux/{making.HERE}", ONE), ("linux/riscv64", TWO))
DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("oci-layout:/data/agent", LayoutReference(Path("/data/agent"))),
        ("oci-layout:/data/agent:1.2", LayoutReference(Path("/data/agent"), "1.2")),
        ("oci-layout:/a:r.example/team/agent:1", LayoutReference(Path("/a"), "r.example/team/agent:1")),
        (f"oci-layout:/a b@{DIGEST}", LayoutReference(Path("/a b"), digest=DIGEST)),
        (f"oci-layout:/a:1@{DIGEST}", LayoutReference(Path("/a"), "1", DIGEST)),
    ],
)
def test_a_reference_says_folder_name_and_digest(text: str, found: LayoutReference) -> None:
    assert oci_reference.parse_layout(text) == found
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("registry.example/agent", "must begin with oci-layout:"),
        ("oci-layout:", "the path must be absolute"),
        ("oci-layout:data/agent", "the path must be absolute"),
        ("oci-layout://host/agent", "the path must be absolute"),
        ("oci-layout:/data/../etc", "without '..'"),
        ("oci-layout:/data/\n", "the path must be absolute"),
        ("oci-layout:/data:", "the image's name must consist of"),
        ("oci-layout:/data:a b", "the image's name must consist of"),
        ("oci-layout:/data@sha256:abc", "the digest must be"),
        (f"oci-layout:/data@{DIGEST.upper()}", "the digest must be"),
        (f"oci-layout:/{'a' * 1024}", "longer than 1024"),
    ],
)
def test_a_reference_that_can_not_be_read_says_why(text: str, why: str) -> None:
    with pytest.raises(oci_reference.InvalidLayoutError, match=why):
        oci_reference.parse_layout(text)


def layers(folder: Path, tag: str = "", digest: str = "") -> list[oci_image.Layer]:
    with oci_image.Image(LayoutReference(folder, tag, digest), oci_image.Access()) as image:
        return image.layers()


class TestTheImageThatIsMeant:
    def test_is_the_only_one(self, tmp_path: Path) -> None:
        write_layout(tmp_path, (ONE, {}))
        assert layout.Layout(tmp_path).resolve_tag("") == ONE.digest
        assert [layer.digest for layer in layers(tmp_path)] == ONE.layers

    def test_is_the_one_with_the_name(self, tmp_path: Path) -> None:
        write_layout(
            tmp_path, (ONE, index_entry("1")), (TWO, index_entry("2")), (TWO, index_entry("r.example/team/agent:2"))
        )
        assert [layout.Layout(tmp_path).resolve_tag(name) for name in ("1", "2", "r.example/team/agent:2")] == [
            *(ONE.digest, TWO.digest, TWO.digest)
        ]

    def test_is_the_one_with_the_digest_whether_it_is_listed_or_not(self, tmp_path: Path) -> None:
        write_layout(tmp_path, (SEVERAL, index_entry("1")))
        assert [layer.digest for layer in layers(tmp_path, digest=ONE.digest)] == ONE.layers

    def test_is_for_this_machine(self, tmp_path: Path) -> None:
        write_layout(tmp_path, (SEVERAL, {}))
        assert layout.Layout(tmp_path).resolve_tag("") == SEVERAL.digest
        assert [layer.digest for layer in layers(tmp_path)] == ONE.layers

    def test_is_not_a_signature_or_what_else_lies_beside_it(self, tmp_path: Path) -> None:
        beside = signing.beside(signing.simple(signing.signer(), signing.payload(ONE.digest)))
        write_layout(
            tmp_path,
            (ONE, {}),
            (beside, {"annotations": {"kind": "dev.cosignproject.cosign/sigs"}}),
            (beside, index_entry(f"{signing.tag(ONE.digest)}.sig")),
            (beside, {"artifactType": signing.BUNDLE}),
        )
        assert layout.Layout(tmp_path).resolve_tag("") == ONE.digest

    def test_is_asked_for_if_there_are_several(self, tmp_path: Path) -> None:
        write_layout(tmp_path, (ONE, index_entry("1")), (TWO, {}))
        with pytest.raises(
            unpack.UnsupportedPackageError, match=r"has 2 images, 1, one without a name: choose one by :NAME"
        ):
            layout.Layout(tmp_path).resolve_tag("")
        with pytest.raises(unpack.UnsupportedPackageError, match="has no image with the name '3', but 1, one without"):
            layout.Layout(tmp_path).resolve_tag("3")
        write_layout(tmp_path, (ONE, index_entry("1")), (TWO, index_entry("1")))
        with pytest.raises(unpack.UnsupportedPackageError, match="has 2 images with the name '1'"):
            layout.Layout(tmp_path).resolve_tag("1")
        write_layout(tmp_path)
        with pytest.raises(unpack.UnsupportedPackageError, match="has no image"):
            layout.Layout(tmp_path).resolve_tag("")


def rewrite(name: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text()) | fields
        (folder / name).write_text(json.dumps(document))

    return change


def corrupt(digest: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        place = making.blob(folder, digest)
        place.write_bytes(place.read_bytes().swapcase())

    return change


def remove_blob(digest: str) -> Callable[[Path], None]:
    return lambda folder: making.blob(folder, digest).unlink()


def link(name: str) -> Callable[[Path], None]:
    """Move something out of the folder, and leave a link to it."""

    def change(folder: Path) -> None:
        elsewhere = folder.parent / "elsewhere"
        (folder / name).rename(elsewhere)
        (folder / name).symlink_to(elsewhere)

    return change


def entry(**fields: Any) -> Callable[[Path], None]:
    listed = {**making.descriptor(ONE.manifest, ONE.media_type), **fields}
    return rewrite("index.json", manifests=[listed])


def instead(folder: Path) -> None:
    (folder / "index.json").unlink()
    (folder / "index.json").mkdir()


CONFIG = json.loads(ONE.manifest)["config"]["digest"]
HEX = ONE.digest.removeprefix("sha256:")
BAD: dict[str, tuple[type[Exception], str, Callable[[Path], object]]] = {
    "no folder": (download.UnusableFileError, "layout: No such file", shutil.rmtree),
    "no mark": (
        download.UnusableFileError,
        "oci-layout: No such file",
        lambda folder: (folder / "oci-layout").unlink(),
    ),
    "no index": (
        download.UnusableFileError,
        "index.json: No such file",
        lambda folder: (folder / "index.json").unlink(),
    ),
    "another version": (
        unpack.UnsupportedPackageError,
        "is of version '2",
        rewrite("oci-layout", imageLayoutVersion="2"),
    ),
    "another mark": (
        unpack.CorruptPackageError,
        "oci-layout: not the doc",
        lambda folder: (folder / "oci-layout").write_text("[]"),
    ),
    "another index": (unpack.UnsupportedPackageError, "is of version 1, 2 is", rewrite("index.json", schemaVersion=1)),
    "no JSON": (unpack.CorruptPackageError, "not the doc", lambda folder: (folder / "index.json").write_bytes(b"\xff")),
    "a large index": (
        unpack.PackageTooLargeError,
        "index.json: has more than",
        lambda folder: (folder / "index.json").write_bytes(b" " * (manifest.MAX_BYTES + 1)),
    ),
    "a digest that is a path": (
        unpack.UnsupportedPackageError,
        "refers to 'sha256:../..",
        entry(digest="sha256:../../x"),
    ),
    "another algorithm": (unpack.UnsupportedPackageError, "refers to 'sha512:", entry(digest=f"sha512:{'a' * 128}")),
    "another size": (unpack.CorruptPackageError, "index.json says 1$", entry(size=1)),
    "no manifest": (download.UnusableFileError, "No such file", remove_blob(ONE.digest)),
    "another manifest": (unpack.CorruptPackageError, "its digest is", corrupt(ONE.digest)),
    "no configuration": (download.UnusableFileError, "No such file", remove_blob(CONFIG)),
    "another configuration": (unpack.CorruptPackageError, "its digest is", corrupt(CONFIG)),
    "no layer": (download.UnusableFileError, "No such file", remove_blob(ONE.layers[0])),
    "a linked index": (unpack.UnsafePackageError, "index.json: is a link", link("index.json")),
    "linked blobs": (unpack.UnsafePackageError, "blobs: is a link", link("blobs")),
    "a linked manifest": (unpack.UnsafePackageError, "is a link", link(f"blobs/sha256/{HEX}")),
    "a linked layer": (unpack.UnsafePackageError, "is a link", link(f"blobs/{ONE.layers[0].replace(':', '/')}")),
    "a folder for an index": (
        download.UnusableFileError,
        "index.json: not a regular file",
        instead,
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path: Path, what: str) -> None:
    kind, said, spoilt = BAD[what]
    folder = write_layout(tmp_path / "layout", (ONE, {}))
    spoilt(folder)
    with pytest.raises(kind, match=said) as caught:
        layers(folder)
    assert "\n" not in str(caught.value)


def test_a_change_of_the_index_shows_in_its_stamp(tmp_path: Path) -> None:
    assert layout.index_fingerprint(tmp_path) == ""
    write_layout(tmp_path, (ONE, {}))
    first = layout.index_fingerprint(tmp_path)
    assert first and layout.index_fingerprint(tmp_path) == first
    write_layout(tmp_path, (TWO, {}))
    assert layout.index_fingerprint(tmp_path) != first


class TestASignature:
    OURS, THEIRS = signing.signer(), signing.signer()

    def find(self, folder: Path) -> str:
        wanted = public_keys.parse(self.OURS.pem)
        return signatures.find_signer(
            LayoutReference(folder, digest=ONE.digest), oci_image.Access(), wanted
        ).fingerprint

    @pytest.mark.parametrize("how", ["as cosign saves it", "by its name", "as a bundle", "as a bundle by its name"])
    def test_is_found_in_the_folder(self, tmp_path: Path, how: str) -> None:
        simple = signing.beside(signing.simple(self.OURS, signing.payload(ONE.digest)))
        bundles = signing.referring(signing.bundle(self.OURS, signing.statement(ONE.digest)))
        beside = {
            "as cosign saves it": (simple, {"annotations": {"kind": "dev.cosignproject.cosign/sigs"}}),
            "by its name": (simple, index_entry(f"{signing.tag(ONE.digest)}.sig")),
            "as a bundle": (bundles.manifests[0], {"artifactType": signing.BUNDLE}),
            "as a bundle by its name": (bundles, index_entry(signing.tag(ONE.digest))),
        }[how]
        write_layout(tmp_path, (ONE, {}), beside)
        assert self.find(tmp_path) == public_keys.parse(self.OURS.pem)[0].fingerprint

    def test_is_found_among_those_of_other_images(self, tmp_path: Path) -> None:
        saved = {"annotations": {"kind": "dev.cosignproject.cosign/sigs"}}
        other, good = (signing.beside(signing.simple(self.OURS, signing.payload(image.digest))) for image in (TWO, ONE))
        write_layout(tmp_path, (ONE, index_entry("1")), (TWO, index_entry("2")), (other, saved), (good, saved))
        assert self.find(tmp_path)

    def test_that_is_not_good_is_none(self, tmp_path: Path) -> None:
        saved = {"annotations": {"kind": "dev.cosignproject.cosign/sigs"}}
        write_layout(tmp_path, (ONE, {}))
        with pytest.raises(unpack.UnsignedImageError, match="is not signed: it has neither"):
            self.find(tmp_path)
        write_layout(
            tmp_path, (ONE, {}), (signing.beside(signing.simple(self.THEIRS, signing.payload(ONE.digest))), saved)
        )
        with pytest.raises(unpack.UnsignedImageError, match="is by none of the keys"):
            self.find(tmp_path)
        write_layout(
            tmp_path, (ONE, {}), (signing.beside(signing.simple(self.OURS, signing.payload(TWO.digest))), saved)
        )
        with pytest.raises(unpack.UnsignedImageError, match="is of another image"):
            self.find(tmp_path)
