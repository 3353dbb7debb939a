"""`oneagent-csi verify` prints a report and a remedy for each version and config layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import TenantId, Version
from oneagent.csi_driver.cli import main
from oneagent.csi_driver.cli import verify as cli_verify
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import config_layers, integrity, store_key
from oneagent.csi_driver.store.integrity import State
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


class TestTheRemedy:
    def test_removes_the_corruption(self, data: DataDir, config: Path) -> None:
        config.write_text("corruption")
        (corrupt,) = (report for report in integrity.check(data, bytes_per_second=None) if report.state != State.OK)
        command = cli_verify.remedy(data, corrupt).partition(";")[0].split()
        assert command[0] == "mv"
        Path(command[1]).rename(command[2])
        assert len(list(integrity.check(data, bytes_per_second=None))) == 1
        config_layers.ensure(data, TENANT, {config_layers.CONFIG_FILE: "[general]\nname café\n"})
        assert [report.state for report in integrity.check(data, bytes_per_second=None)] == [State.OK] * 2


Verify = Callable[..., int]


class TestTheCommand:
    @pytest.fixture
    def verify(self, data: DataDir, monkeypatch: pytest.MonkeyPatch) -> Verify:
        def run(*arguments: str) -> int:
            monkeypatch.setattr(
                "sys.argv", ["oneagent-csi", "verify", f"--data-dir={data.root}", "--rate=0", *arguments]
            )
            return main.main()

        return run

    def test_exits_with_0_if_everything_is_intact(self, verify: Verify, capsys: pytest.CaptureFixture[str]) -> None:
        assert verify() == 0
        out = capsys.readouterr().out
        assert f"version {VERSION}: ok, " in out
        assert out.endswith("2 checked, none need attention.\n")

    def test_exits_with_1_and_names_file_and_remedy_of_corruption(
        self, verify: Verify, library: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        library.unlink()
        assert verify() == 1
        out = capsys.readouterr().out
        assert f"  {PRELOAD_LIBRARY}: missing\n" in out
        assert "what to do: mv " in out

    def test_checks_only_the_versions_of_the_command_line(
        self, verify: Verify, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert verify("-o", "json", VERSION, "9.9.9") == 1
        report = json.loads(capsys.readouterr().out)
        assert report["format"] == cli_verify.JSON_FORMAT
        assert [(row["name"], row["state"]) for row in report["checked"]] == [(VERSION, "ok"), ("9.9.9", "missing")]
        assert verify("-o", "yaml", VERSION, "9.9.9") == 1
        assert yaml.safe_load(capsys.readouterr().out) == report

    def test_takes_a_version_as_status_shows_it(
        self, verify: Verify, data: DataDir, capsys: pytest.CaptureFixture[str]
    ) -> None:
        key = store_key.of_version(VERSION, "https://tenant.example/api")
        Path(data.agent(VERSION)).rename(data.agent(key))
        data.manifest(VERSION).rename(data.manifest(key))
        assert verify(VERSION) == 0
        assert f"version {key}: ok, " in " ".join(capsys.readouterr().out.split())

    def test_reports_a_missing_store_in_one_line(
        self, verify: Verify, data: DataDir, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data.agents.rename(data.root / "moved")
        assert verify() == 1
        assert capsys.readouterr().err.startswith("oneagent-csi: agent store can't be read: No such file")
        data.root.rename(data.root.with_name("elsewhere"))
        assert verify("-ojson") == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["reason"] == "NotReadable"
        assert "set --data-dir to the driver's data directory" in error["message"]
        assert verify("-oyaml") == 2
        assert yaml.safe_load(capsys.readouterr().out)["error"] == error

    def test_counts_the_bytes_that_it_reads(self, data: DataDir) -> None:
        counted: dict[str, int] = {}

        def begin(version: Version, total: int) -> Callable[[int], None]:
            counted["total"], counted["read"] = total, 0
            return lambda read: counted.update(read=counted["read"] + read)

        assert list(integrity.check(data, [VERSION], bytes_per_second=None, on_begin=begin))
        assert counted["read"] == counted["total"] > 0

    @pytest.mark.parametrize("arguments", [["../etc"], ["--rate=fast"]])
    def test_exits_with_2_for_an_invalid_command_line(self, verify: Verify, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            verify(*arguments)
        assert ended.value.code == 2
