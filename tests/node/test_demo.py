"""The demonstration works from its first step to its last, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from docs import recording

from tests.demo import library, telemetry_story

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
    assert "Pod default/shop can't start yet: attempt 1 failed: DynaKube 'demo' is not known on this node" in told
    assert "What to do: create it, or wait until this node has read it; the pod then starts by itself." in told
    assert "Pod default/shop is monitored: its process loaded the agent" in told
    assert "/opt/dynatrace/oneagent-paas/agent/lib64/liboneagentproc.so" in told
    assert preload.kind.name in told
    assert "k8s_fullpodname shop" in told
    assert "upper/agent/log/shop.log: written by the application" in told
    assert "Nothing needs attention." in told
    assert "SIGTERM: all five processes have ended, each with exit code 0" in told
    assert set((_ROOT / "build").glob("run-*")) <= before
    assert not processes_that_name(str(_ROOT / "build" / "run-"))
    assert_recorded(told, preload.kind.name)


def assert_recorded(told: str, library_name: str) -> None:
    """The documentation's recording has the lines that the demonstration prints, whatever the numbers in them."""
    recorded = recording.read_picture(recording.picture("run"))
    if not any(library_name in line for line in recorded):
        return  # It was made with the other library.
    now = stable(told.splitlines())
    assert [line for line in stable(recorded[1:]) if line not in now] == [], (
        "run: .venv/bin/python -m docs.recording run"
    )


def stable(lines: Iterable[str]) -> list[str]:
    """Lines without numbers and what has some, and without states that may pass unseen and what the library prints."""
    found, is_library = list[str](), False
    for line in lines:
        if not line.lstrip().startswith("│"):
            is_library = "to see what" in line
        if not is_library and not re.search(r"version \S+: \w+$|^ +│ /\S+/lib\S+$", line):
            found.append(re.sub(r"\S*\d\S*", "N", " ".join(line.split())))
    return found


@pytest.mark.skipif(not telemetry_story.PACKAGE.exists(), reason="the package is not built: make agent-package")
def test_one_trace_goes_through_unmodified_services_with_opentelemetrys_agents() -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "tests.demo", "--agent=otel"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    told = demo.stdout
    assert demo.returncode == 0, told + demo.stderr
    assert demo.stderr == ""
    assert re.search(r"one trace, [0-9a-f]{32}:", told)
    assert re.search(r"GET /\S+ +server +shop +shop +python", told)
    assert re.search(r"└─ .*server +cart +cart ", told)
    assert "SIGTERM: all four processes have ended, each with exit code 0" in told
    assert not processes_that_name(str(_ROOT / "build" / "run-"))
