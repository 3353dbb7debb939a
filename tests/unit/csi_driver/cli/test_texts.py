"""What `oneagent-csi` prints, at three widths, as text files in `texts/`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from oneagent.common import node_report
from oneagent.common.identifiers import Version
from oneagent.common.node_report import (
    Diagnosis,
    Disk,
    DynaKubeStatus,
    Failure,
    NodeStatus,
    PodEvidence,
    PodProcess,
    Running,
    VersionStatus,
    View,
    Volume,
    VolumeStatus,
)
from oneagent.common.terminal import Screen
from oneagent.common.unpack.file_manifest import Finding
from oneagent.csi_driver.cli import main, verify
from oneagent.csi_driver.cli.status import problems, tables
from oneagent.csi_driver.cli.why import diagnose
from oneagent.csi_driver.cli.why import text as why_text
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store.integrity import IntegrityReport, State
from tests.unit import expected_texts

TEXTS: Final = Path(__file__).parent / "texts"
NOW: Final = 1_700_000_000.0
VERSION: Final = Version("1.290.0.20261001-120000")
POD: Final = "cart-with-a-name-as-deployments-make-them-6d5f9c7b8-x2k9q"
TARGET: Final = "/var/lib/kubelet/pods/3f0e8a52/volumes/kubernetes.io~csi/oneagent-bin/mount"


def node(*, well: bool) -> NodeStatus:
    versions = [VersionStatus(VERSION, "ready", 512 << 20, 2, ("shop",), NOW - 86400, NOW, "")]
    volumes = [VolumeStatus("csi-1", "shop", POD, "shop", "app", VERSION, "mounted", True, False, TARGET, NOW - 7200)]
    failures = []
    if not well:
        message = (
            "700 MiB are needed and 12 MiB are free (disk budget none, reserve 256 MiB); every version in the store is "
            "in use or desired"
        )
        versions.append(VersionStatus("1.291.0.20261101-120000", "failed", 0, 0, ("late",), None, None, message))
        reason = f"version 1.291.0.20261101-120000 can't be installed: {message}"
        failures.append(Failure("csi-2", "shop", "late-0", "late", 3, NOW - 300, False, reason))
    kube = DynaKubeStatus("shop", "abc12345", VERSION, True, "", NOW - 86400)
    disk = Disk(512 << 20, 3 << 20, 0, 0, 0, 40 << 30, 100 << 30, 6_000_000, 6_500_000)
    return NodeStatus(
        "/data", NOW, "ok", (), Running(True, well), tuple(versions), tuple(volumes), tuple(failures), (kube,), disk
    )


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
@pytest.mark.parametrize("scene", ["well", "ill"])
def test_status(scene: str, width: int) -> None:
    status = problems.add_problems(node(well=scene == "well"))
    shown = "".join(f"{line}\n" for line in tables.lines(status, Screen(width)))
    assert f"shop/{POD}" in shown
    expected_texts.assert_fits(shown, width)
    expected_texts.check(TEXTS, f"status-{scene}", width, shown)


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
@pytest.mark.parametrize("scene", ["monitored", "waiting", "refused"])
def test_why(scene: str, width: int) -> None:
    is_well = scene == "monitored"
    volume = Volume(
        "csi-1", "app", "shop", VERSION, "mounted" if is_well else "waiting", TARGET, 0, "", NOW,
        {
            "monitored": "",
            "waiting": f"version {VERSION} is not in the store yet (downloading)",
            "refused": f"version {VERSION} can't be installed: https://abc12345.live.example.com/api/v1/deployment/"
            f"installer/agent/unix/paas/version/{VERSION}: answered 403: Token is missing required scope (check "
            "apiToken of the DynaKube's secret: it needs the scope InstallerDownload)",
        }[scene],
    )  # fmt: skip
    view = View("/data/volumes/csi-1/upper", (f"/data/agents/{VERSION}",)) if is_well else None
    processes = (PodProcess(7, "java", True, True, False),) if is_well else ()
    evidence = PodEvidence("shop", POD, NOW, volume, is_well, view, False, processes, True, True)
    shown = "".join(f"{line}\n" for line in why_text.lines(evidence, diagnose.diagnose(evidence), Screen(width)))
    expected_texts.assert_fits(shown, width)
    expected_texts.check(TEXTS, f"why-{scene}", width, shown)


@pytest.mark.parametrize("width", expected_texts.WIDTHS)
def test_verify(width: int) -> None:
    data = DataDir(Path("/data"))
    finding = Finding("agent/lib64/liboneagentproc.so", "content")
    reports = (
        IntegrityReport("version", VERSION, State.OK, 321, 512 << 20),
        IntegrityReport("version", VERSION, State.CORRUPT, 321, 512 << 20, (finding,)),
    )
    shown = "".join(f"{line}\n" for report in reports for line in verify.to_lines(data, report, Screen(width)))
    expected_texts.assert_fits(shown, width)
    expected_texts.check(TEXTS, "verify", width, shown)


@expected_texts.of_this_argparse
@pytest.mark.parametrize("width", expected_texts.WIDTHS)
@pytest.mark.parametrize("command", ["", "status", "why", "verify", "preload", "help"])
def test_help(command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.argv", ["oneagent-csi", "help", command])
    assert main.main() == 0
    shown = capsys.readouterr().out
    expected_texts.assert_fits(shown, width)
    expected_texts.check(TEXTS, f"help-{command or 'all'}", width, shown)


def test_a_diagnosis_without_a_remedy_has_none_in_its_text() -> None:
    evidence = PodEvidence("shop", "cart", NOW, None, None, None, False, (), True, True)
    assert "What to do" not in "".join(why_text.lines(evidence, Diagnosis("Monitored", "it is"), Screen()))


class TestAnInjection:
    """An OpenTelemetryInjection has an internal name on nodes, which begins with `otelinj.`."""

    STATUS = NodeStatus(
        "/data", NOW, "ok", (), Running(True, True),
        (VersionStatus(VERSION, "ready", 512 << 20, 1, ("shop", "otelinj.shop"), NOW, NOW, ""),),
        (VolumeStatus("csi-1", "shop", POD, "otelinj.shop", "app", VERSION, "mounted", True, False, TARGET, NOW),),
        (Failure("csi-2", "shop", "late-0", "otelinj.shop", 3, NOW, False, "no room"),),
        (DynaKubeStatus("otelinj.shop", "otelinj.shop", VERSION, True, "", NOW),),
        None,
    )  # fmt: skip
    VOLUME = Volume("csi-1", "app", "otelinj.shop", VERSION, "waiting", TARGET, 0, "", NOW, "")
    EVIDENCE = PodEvidence("shop", POD, NOW, VOLUME, False, None, False, (), True, True)

    def test_has_its_kind_and_name_in_texts(self) -> None:
        status = "\n".join(tables.lines(problems.add_problems(self.STATUS), Screen(300)))
        assert "shop, OpenTelemetryInjection/shop" in status
        assert status.count("OpenTelemetryInjection/shop") == 4
        why = "\n".join(why_text.lines(self.EVIDENCE, diagnose.diagnose(self.EVIDENCE), Screen(300)))
        assert "OpenTelemetryInjection shop" in why
        assert "otelinj" not in status + why

    def test_has_them_next_to_its_internal_name_in_json(self) -> None:
        status = node_report.status_to_json(self.STATUS)
        for rows, field in (("volumes", "dynakube"), ("failures", "dynakube"), ("dynakubes", "name")):
            (row,) = status[rows]
            assert (row[field], row["object"]) == ("otelinj.shop", "OpenTelemetryInjection/shop")
        (version,) = status["versions"]
        assert version["wanted_by"] == ["shop", "otelinj.shop"]
        assert version["wanted_by_objects"] == ["DynaKube/shop", "OpenTelemetryInjection/shop"]
        report = node_report.PodReport(self.EVIDENCE, diagnose.diagnose(self.EVIDENCE))
        volume = node_report.pod_to_json(report)["volume"]
        assert (volume["dynakube"], volume["object"]) == ("otelinj.shop", "OpenTelemetryInjection/shop")
