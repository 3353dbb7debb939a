"""`oneagent-csi verify` reads the store again and finds what is not as it was put there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.common.identifiers import PRELOAD_LIBRARY, TenantId, Version
from oneagent.common.unpack import zip
from oneagent.csi_driver.cli import main
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import config_layers, integrity
from oneagent.csi_driver.store.integrity import IntegrityReport, State
from tests.fakes import packages

VERSION = Version("1.277.0.20230914-094321")
TENANT = TenantId("abc12345")


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """A store with one version and one config layer, made as the provisioner makes them."""
    folder = DataDir(tmp_path / "data")
    folder.create()
    unpacked = zip.unpack_agent(packages.build(tmp_path / "package.zip"), folder.tmp / "tree")
    unpacked.manifest.dump(folder.manifest(VERSION))
    unpacked.root.rename(folder.agent(VERSION))
    config_layers.ensure(folder, TENANT, "[general]\nname café\n")
    return folder


@pytest.fixture
def library(data: DataDir) -> Path:
    return Path(data.agent(VERSION), PRELOAD_LIBRARY)


@pytest.fixture
def config(data: DataDir) -> Path:
    (file,) = data.config_layers.glob(f"*/*/{config_layers.CONFIG_FILE}")
    return file


def damaged(data: DataDir) -> IntegrityReport:
    (found,) = (found for found in integrity.check(data, bytes_per_second=None) if found.state != State.OK)
    return found


class TestAStoreThatNobodyTouched:
    def test_is_whole(self, data: DataDir) -> None:
        version, layer = integrity.check(data, bytes_per_second=None)
        assert (version.kind, version.name, version.state) == ("version", VERSION, State.OK)
        assert version.files > 0
        assert version.bytes > 0
        assert (layer.kind, layer.state) == ("layer", State.OK)

    def test_may_have_folders_beside_versions_that_are_not_ours(self, data: DataDir) -> None:
        (data.agents / ".lost+found").mkdir()
        (data.agents / "a file").touch()
        assert [found.state for found in integrity.check(data, bytes_per_second=None)] == [State.OK] * 2


class TestDamage:
    def test_of_a_byte_in_a_version_is_found(self, data: DataDir, library: Path) -> None:
        content = bytearray(library.read_bytes())
        content[-1] ^= 1
        library.write_bytes(content)
        found = damaged(data)
        assert (found.name, found.state) == (VERSION, State.DAMAGED)
        assert [(finding.path, finding.problem) for finding in found.findings] == [(PRELOAD_LIBRARY, "content")]

    def test_of_a_config_layer_is_found(self, data: DataDir, config: Path) -> None:
        config.write_text("[general]\n")
        found = damaged(data)
        assert (found.kind, found.state) == ("layer", State.DAMAGED)
        assert [finding.problem for finding in found.findings] == ["content"]

    def test_of_a_config_layer_without_its_file_or_with_others_is_found(self, data: DataDir, config: Path) -> None:
        config.rename(config.with_name("other.conf"))
        assert [finding.problem for finding in damaged(data).findings] == ["missing", "unexpected"]

    @pytest.mark.parametrize("content", [None, b"{}"], ids=["missing", "no manifest"])
    def test_that_cannot_be_told_for_want_of_a_manifest_is_said_to_be_so(
        self, data: DataDir, library: Path, content: bytes | None
    ) -> None:
        manifest = data.manifest(VERSION)
        manifest.unlink()
        if content is not None:
            manifest.write_bytes(content)
        found = damaged(data)
        assert found.state == State.UNVERIFIED
        assert str(manifest) in found.message
        library.unlink()
        assert damaged(data).state == State.DAMAGED

    def test_is_no_longer_there_after_doing_what_the_remedy_says(self, data: DataDir, config: Path) -> None:
        config.write_text("damage")
        command = integrity.remedy(data, damaged(data)).partition(";")[0].split()
        assert command[0] == "mv"
        Path(command[1]).rename(command[2])
        assert len(list(integrity.check(data, bytes_per_second=None))) == 1
        config_layers.ensure(data, TENANT, "[general]\nname café\n")
        assert [found.state for found in integrity.check(data, bytes_per_second=None)] == [State.OK] * 2


Asked = Callable[..., int]


class TestTheCommand:
    @pytest.fixture
    def asked(self, data: DataDir, monkeypatch: pytest.MonkeyPatch) -> Asked:
        def ask(*words: str) -> int:
            monkeypatch.setattr("sys.argv", ["oneagent-csi", "verify", f"--data-dir={data.root}", "--rate=0", *words])
            return main.main()

        return ask

    def test_ends_with_0_if_all_is_whole(self, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
        assert asked() == 0
        out = capsys.readouterr().out
        assert f"version {VERSION}: ok, " in out
        assert out.endswith("2 checked, none need attention.\n")

    def test_ends_with_1_and_names_file_and_remedy_if_something_is_damaged(
        self, asked: Asked, library: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        library.unlink()
        assert asked() == 1
        out = capsys.readouterr().out
        assert f"  {PRELOAD_LIBRARY}: missing\n" in out
        assert "what to do: mv " in out

    def test_checks_only_what_it_is_asked_for(self, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
        assert asked("-o", "json", VERSION, "9.9.9") == 1
        answer = json.loads(capsys.readouterr().out)
        assert answer["format"] == integrity.JSON_FORMAT
        assert [(row["name"], row["state"]) for row in answer["checked"]] == [(VERSION, "ok"), ("9.9.9", "missing")]

    def test_says_so_if_there_is_no_store(self, asked: Asked, data: DataDir) -> None:
        data.agents.rename(data.root / "moved")
        with pytest.raises(SystemExit, match="agent store can't be read: No such file"):
            asked()

    @pytest.mark.parametrize("words", [["../etc"], ["--rate=fast"]])
    def test_ends_with_2_if_it_cannot_be_understood(self, asked: Asked, words: list[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            asked(*words)
        assert ended.value.code == 2
