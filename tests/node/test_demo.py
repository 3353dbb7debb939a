"""The demonstration works from its first step to its last, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo import library

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def preload(monkeypatch: pytest.MonkeyPatch) -> library.Library:
    monkeypatch.chdir(_ROOT)
    try:
        return library.find()
    except library.NoLibraryError as error:
        pytest.skip(str(error))


def processes_that_name(folder: str) -> list[str]:
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if folder in words:
            found.append(words)
    return found


def test_an_application_gets_its_agent_and_nothing_is_left_behind(preload: library.Library) -> None:
    before = set((_ROOT / "build").glob("run-*"))
    demo = subprocess.run(
        [sys.executable, "-m", "tests.demo"], cwd=_ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    told = demo.stdout
    assert demo.returncode == 0, told + demo.stderr
    assert demo.stderr == ""
    assert "UNAVAILABLE: volume csi-shop, attempt 1 of 10: DynaKube 'demo' is not known on this node" in told
    assert "downloading" in told
    assert "/opt/dynatrace/oneagent-paas/agent/lib64/liboneagentproc.so" in told
    assert preload.kind.name in told
    assert "k8s_fullpodname shop" in told
    assert "upper/agent/log/shop.log: written by the application" in told
    assert "Nothing needs attention." in told
    assert "SIGTERM: all five processes have ended, each with exit code 0" in told
    assert set((_ROOT / "build").glob("run-*")) <= before
    assert not processes_that_name(str(_ROOT / "build" / "run-"))
