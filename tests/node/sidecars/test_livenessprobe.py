"""The livenessprobe, with kubelet's part played by the test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import parser

from tests.fakes import ports
from tests.fakes.identity import IdentityDriver
from tests.node.sidecars import programs
from tests.node.sidecars.programs import Program

BUCKETS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600, float("inf")]
Start = Callable[..., Program]


@pytest.fixture
def start(folder: Path, driver: IdentityDriver) -> Iterator[Start]:
    with contextlib.ExitStack() as leave:

        def begin(*more: str) -> Program:
            line = [
                *programs.words("livenessprobe"),
                f"--csi-address={driver.socket}",
                "--probe-timeout=1s",
                *more,
            ]
            return leave.enter_context(programs.running(line, folder / "log"))

        yield begin


def until_ok(port: int) -> None:
    programs.until(lambda: ports.get(port) == (200, "ok"))


@pytest.mark.parametrize("ready", [True, None])
def test_a_driver_that_answers_is_alive(driver: IdentityDriver, start: Start, port: int, ready: bool | None) -> None:
    driver.ready = ready
    driver.start()
    start(f"--http-endpoint=127.0.0.1:{port}")
    until_ok(port)


def test_the_deprecated_port_flag_works(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    start(f"--health-port={port}", "-v=2")
    until_ok(port)
    assert ports.get(port, "/metrics")[0] == 404


def test_a_driver_that_is_not_ready_fails_the_probe(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.ready = False
    driver.start()
    start(f"--http-endpoint=127.0.0.1:{port}")
    programs.until(lambda: ports.get(port)[0] == 500)
    # Our answer may be that of a moment before.
    programs.until(lambda: ports.get(port)[1].strip() == "driver responded but is not ready")


def test_a_driver_that_fails_its_probe_fails_ours(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    start(f"--http-endpoint=127.0.0.1:{port}")
    until_ok(port)
    driver.failure = grpc.StatusCode.FAILED_PRECONDITION
    status, body = ports.get(port)
    assert status == 500
    assert "told to fail" in body


def test_a_hanging_driver_fails_the_probe_at_the_timeout(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    start(f"--http-endpoint=127.0.0.1:{port}")
    until_ok(port)
    driver.hang = True
    started = time.monotonic()
    assert ports.get(port)[0] == 500
    assert 0.9 < time.monotonic() - started < 10


def test_a_dead_driver_fails_the_probe_and_a_returning_one_passes(
    driver: IdentityDriver, start: Start, port: int
) -> None:
    driver.start()
    start(f"--http-endpoint=127.0.0.1:{port}")
    until_ok(port)
    driver.stop()
    assert ports.get(port)[0] == 500
    driver.start()
    assert ports.get(port) == (200, "ok")


def test_the_probe_fails_until_the_driver_is_there(driver: IdentityDriver, start: Start, port: int) -> None:
    start(f"--http-endpoint=127.0.0.1:{port}")
    programs.until(lambda: ports.get(port)[0] == 500)
    driver.start()
    until_ok(port)


def test_calls_are_counted_as_dashboards_expect(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    start(f"--http-endpoint=127.0.0.1:{port}", "--metrics-path=/m")

    def samples() -> dict[tuple[str, str, str], list[float]]:
        found: dict[tuple[str, str, str], list[float]] = {}
        for family in parser.text_string_to_metric_families(ports.get(port, "/m")[1]):
            for sample in family.samples:
                if sample.name == "csi_sidecar_operations_seconds_bucket":
                    labels = dict(sample.labels)
                    bound = float(labels.pop("le"))
                    key = (
                        labels.pop("driver_name"),
                        labels.pop("grpc_status_code"),
                        labels.pop("method_name"),
                    )
                    assert labels == {}
                    found.setdefault(key, []).append(bound)
        return found

    programs.until(lambda: ("unknown-driver", "OK", "/csi.v1.Identity/GetPluginInfo") in samples())
    until_ok(port)
    driver.failure = grpc.StatusCode.FAILED_PRECONDITION
    ports.get(port)
    found = samples()
    assert found[driver.name, "OK", "/csi.v1.Identity/Probe"] == BUCKETS
    assert (driver.name, "FailedPrecondition", "/csi.v1.Identity/Probe") in found


def test_metrics_may_have_an_address_of_their_own(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    other = ports.free()
    start(f"--health-port={port}", f"--metrics-address=127.0.0.1:{other}")
    until_ok(port)
    programs.until(lambda: "csi_sidecar_operations_seconds" in ports.get(other, "/metrics")[1])


def test_two_ports_for_health_are_one_too_many(start: Start) -> None:
    assert start("--health-port=9809", "--http-endpoint=127.0.0.1:9810").ended() == 2


# on purpose unlike the Go program of that name


def test_the_probe_says_why_it_fails_while_there_is_no_driver(start: Start, port: int) -> None:
    start(f"--http-endpoint=127.0.0.1:{port}")
    programs.until(lambda: ports.get(port)[0] == 500)
    assert "No such file or directory" in ports.get(port)[1]


def test_a_driver_that_does_not_say_its_name_at_first_is_asked_again(
    driver: IdentityDriver, start: Start, port: int
) -> None:
    driver.failure = grpc.StatusCode.UNAVAILABLE
    driver.start()
    program = start(f"--http-endpoint=127.0.0.1:{port}")
    programs.until(lambda: "driver name not available; retrying" in program.log())
    driver.failure = None
    until_ok(port)
    programs.until(lambda: "probing the driver" in program.log())
    assert program.process.poll() is None


def test_a_change_of_health_is_logged_once(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    program = start(f"--http-endpoint=127.0.0.1:{port}")
    until_ok(port)
    driver.ready = False
    for _ in range(3):
        ports.get(port)
    assert program.log().count('"healthy": false') == 1


def test_sigterm_ends_with_0_also_while_waiting(start: Start, port: int) -> None:
    program = start(f"--http-endpoint=127.0.0.1:{port}")
    programs.until(lambda: ports.get(port)[0] == 500)
    assert program.terminate() == 0


def test_a_port_in_use_ends_with_1(start: Start, port: int) -> None:
    start(f"--http-endpoint=127.0.0.1:{port}")
    programs.until(lambda: ports.get(port)[0] == 500)
    second = start(f"--http-endpoint=127.0.0.1:{port}")
    assert second.ended() == 1


def test_the_livenessprobe_stays_small(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    program = start(f"--http-endpoint=127.0.0.1:{port}")
    until_ok(port)
    for _ in range(50):
        ports.get(port)
        ports.get(port, "/metrics")
    assert program.resident_kib() < 28 * 1024
