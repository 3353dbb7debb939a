"""DynaKubes whose image lies in a folder of the node: which version that is, what moves it, and what is told of it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from oneagent.common.identifiers import Version
from oneagent.csi_driver.store import store_key
from tests.fakes import images, signing
from tests.fakes import packages as agents
from tests.fakes.images import index_entry, write_layout
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, list_corrupt, manifest

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SAVED = {"annotations": {"kind": "dev.cosignproject.cosign/sigs"}}


def agent(text: str, how: str = "gzip") -> images.Image:
    layers = images.tar(*images.agent()), images.tar(images.Entry(f"{agents.NESTED}note", text.encode()))
    return images.image(*layers, how=how, architecture=HERE)


def version(image: images.Image) -> Version:
    return store_key.of_image(image.digest)


ONE, TWO = agent("one"), agent("two", "zstd")


def content(directory: Path) -> list[tuple[str, bytes]]:
    return sorted((str(path), path.read_bytes()) for path in directory.rglob("*") if path.is_file())


class TestAnImageInAFolder:
    def test_is_installed_and_the_folder_is_left_as_it_is(self, tmp_path: Path, source: FakeDynaKubeSource) -> None:
        directory = write_layout(
            tmp_path / "layout", (images.index((f"linux/{HERE}", ONE), ("linux/riscv64", TWO)), {})
        )
        before = content(directory)
        wanted = images.index((f"linux/{HERE}", ONE), ("linux/riscv64", TWO))
        source.put(manifest(image=f"oci-layout:{directory}"))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: p.is_ready(version(wanted)), what=p.condition)
            assert list_corrupt(p.data) == []
            assert (Path(p.data.agent(version(wanted))) / "note").read_text() == "one"
            assert list(p.data.tmp.iterdir()) == []
        assert content(directory) == before

    def test_whose_name_moves_is_another_version_at_once(self, tmp_path: Path, source: FakeDynaKubeSource) -> None:
        directory = write_layout(tmp_path / "layout", (ONE, index_entry("1")), (TWO, index_entry("2")))
        source.put(manifest(image=f"oci-layout:{directory}:1"))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: p.is_ready(version(ONE)), what=p.condition)
            write_layout(directory, (TWO, index_entry("1")), (ONE, index_entry("2")))
            p.wait_until(lambda: p.is_ready(version(TWO)), what=p.condition)

    def test_that_is_not_there_says_so_and_is_found_when_it_comes(
        self, tmp_path: Path, source: FakeDynaKubeSource
    ) -> None:
        directory = tmp_path / "layout"
        source.put(manifest(image=f"oci-layout:{directory}:1"))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: f"{directory}: No such file" in p.condition(), what=p.condition)
            write_layout(directory, (ONE, index_entry("2")))
            p.wait_until(lambda: "has no image with the name '1', but 2" in p.condition(), what=p.condition)
            write_layout(directory, (ONE, index_entry("1")))
            p.wait_until(lambda: p.is_ready(version(ONE)), what=p.condition)

    def test_keeps_its_version_while_its_folder_is_corrupt(
        self, tmp_path: Path, source: FakeDynaKubeSource, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory = write_layout(tmp_path / "layout", (ONE, {}))
        source.put(manifest(image=f"oci-layout:{directory}"))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: p.is_ready(version(ONE)), what=p.condition)
            write_layout(directory, (TWO, {"digest": f"sha256:{'5' * 64}"}))
            p.wait_until(lambda: "image not resolved" in caplog.text)
            assert p.is_ready(version(ONE))

    def test_with_a_spoilt_layer_is_refused_and_leaves_nothing(
        self, tmp_path: Path, source: FakeDynaKubeSource
    ) -> None:
        directory = write_layout(tmp_path / "layout", (ONE, {}))
        layer = images.blob(directory, ONE.layers[1])
        layer.write_bytes(layer.read_bytes()[::-1])
        source.put(manifest(image=f"oci-layout:{directory}"))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(
                lambda: "can't be installed" in p.condition() and layer.name in p.condition(), what=p.condition
            )
            assert p.store.versions() == []
            assert list(p.data.tmp.iterdir()) == []
        assert layer.exists()

    def test_is_installed_if_it_is_signed_there_and_not_if_it_is_not(
        self, tmp_path: Path, source: FakeDynaKubeSource
    ) -> None:
        ours, theirs = signing.signer(), signing.signer()
        directory = write_layout(tmp_path / "layout", (ONE, {}))
        key = {"code-modules-image-key": ours.pem}
        source.put(manifest(image=f"oci-layout:{directory}", annotations=key))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: "is not signed" in p.condition(), what=p.condition)
            bad, good = (signing.beside(signing.simple(one, signing.payload(ONE.digest))) for one in (theirs, ours))
            write_layout(directory, (ONE, {}), (bad, SAVED))
            p.wait_until(lambda: "is by none of the keys" in p.condition(), what=p.condition)
            assert p.store.versions() == []
            write_layout(directory, (ONE, {}), (bad, SAVED), (good, SAVED))
            p.wait_until(lambda: p.is_ready(version(ONE)), what=p.condition)
