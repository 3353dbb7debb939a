"""The integrity check reads the store again and finds every difference from the manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import TenantId, Version
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import config_layers, integrity
from oneagent.csi_driver.store.integrity import IntegrityReport, State
from tests.fakes import packages

VERSION = Version("1.277.0.20230914-094321")
TENANT = TenantId("abc12345")


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """A store with one version and one config layer, made as the provisioner makes them."""
    data = packages.store(tmp_path / "data", VERSION)
    config_layers.ensure(data, TENANT, {config_layers.CONFIG_FILE: "[general]\nname café\n"})
    return data


@pytest.fixture
def library(data: DataDir) -> Path:
    return Path(data.agent(VERSION), PRELOAD_LIBRARY)


@pytest.fixture
def config(data: DataDir) -> Path:
    (file,) = data.config_layers.glob(f"*/*/{config_layers.CONFIG_FILE}")
    return file


def corrupt(data: DataDir) -> IntegrityReport:
    (found,) = (found for found in integrity.check(data, bytes_per_second=None) if found.state != State.OK)
    return found


class TestAnIntactStore:
    def test_is_ok(self, data: DataDir) -> None:
        version, layer = integrity.check(data, bytes_per_second=None)
        assert (version.kind, version.name, version.state) == ("version", VERSION, State.OK)
        assert version.files > 0
        assert version.bytes > 0
        assert (layer.kind, layer.state) == ("layer", State.OK)

    def test_may_have_other_directories_beside_versions(self, data: DataDir) -> None:
        (data.agents / ".lost+found").mkdir()
        (data.agents / "a file").touch()
        assert [found.state for found in integrity.check(data, bytes_per_second=None)] == [State.OK] * 2


class TestCorruption:
    def test_of_a_byte_in_a_version_is_found(self, data: DataDir, library: Path) -> None:
        content = bytearray(library.read_bytes())
        content[-1] ^= 1
        library.write_bytes(content)
        found = corrupt(data)
        assert (found.name, found.state) == (VERSION, State.CORRUPT)
        assert [(finding.path, finding.problem) for finding in found.findings] == [(PRELOAD_LIBRARY, "content")]

    def test_of_a_config_layer_is_found(self, data: DataDir, config: Path) -> None:
        config.write_text("[general]\n")
        found = corrupt(data)
        assert (found.kind, found.state) == ("layer", State.CORRUPT)
        assert [finding.problem for finding in found.findings] == ["content"]

    def test_of_a_config_layer_without_its_file_or_with_others_is_found(self, data: DataDir, config: Path) -> None:
        config.rename(config.with_name("other.conf"))
        assert [finding.problem for finding in corrupt(data).findings] == ["missing", "unexpected"]

    def test_of_one_of_two_files_of_a_config_layer_is_found(self, data: DataDir) -> None:
        texts = {opentelemetry.CONFIG_FILE: "A=1\n", opentelemetry.AUTHORITY_FILE: "ca"}
        layer = config_layers.ensure(data, TENANT, texts, opentelemetry.PROFILE)
        assert [found.state for found in integrity.check(data, bytes_per_second=None)] == [State.OK] * 3
        authority = data.config_layer(TENANT, layer) / opentelemetry.AUTHORITY_FILE
        authority.write_text("cb")
        assert [(finding.path, finding.problem) for finding in corrupt(data).findings] == [("agent/conf", "content")]
        authority.unlink()
        assert [finding.problem for finding in corrupt(data).findings] == ["content"]
        authority.write_text("ca")
        authority.with_name("ruxitagentproc.txt").touch()
        assert [finding.problem for finding in corrupt(data).findings] == ["unexpected"]

    @pytest.mark.parametrize("content", [None, b"{}"], ids=["missing", "no manifest"])
    def test_without_a_usable_manifest_is_reported_as_unverified(
        self, data: DataDir, library: Path, content: bytes | None
    ) -> None:
        manifest = data.manifest(VERSION)
        manifest.unlink()
        if content is not None:
            manifest.write_bytes(content)
        found = corrupt(data)
        assert found.state == State.UNVERIFIED
        assert str(manifest) in found.message
        library.unlink()
        assert corrupt(data).state == State.CORRUPT
