from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

import pytest

from oneagent.common.http import health
from oneagent.operator import main
from oneagent.operator.startup_taint.taint import Taint
from tests.fakes import ports


def test_the_startup_taint_is_off_unless_one_is_named() -> None:
    assert main.parse([]).startup_taint is None
    given = main.parse(["--startup-taint=example.com/not-ready:NoSchedule", "--startup-taint-timeout=90s"])
    assert (given.startup_taint, given.startup_taint_timeout_seconds) == (
        Taint("example.com/not-ready", "NoSchedule"),
        90,
    )


def test_a_startup_taint_that_cannot_be_is_refused_with_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.parse(["--startup-taint=not-ready"])
    assert "--startup-taint: 'not-ready': give KEY:EFFECT" in capsys.readouterr().err


def test_readyz_says_why_not() -> None:
    port, problems = ports.free(), [""]

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def story() -> None:
        async with health.HealthServer("127.0.0.1", port, lambda: problems[0]):
            assert await asyncio.to_thread(ask) == (200, "ok\n")
            problems[0] = "initial list not finished"
            assert await asyncio.to_thread(ask) == (503, "initial list not finished\n")

    asyncio.run(story())
