"""Our sidecars and grpc-go, which is what kubelet and most drivers speak: each as a process of its own.

The sidecars' gRPC is our own, so what has to be proved is that the other one in the field understands it and is
understood, above all where a call does not simply succeed.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.sidecars import csi_client
from oneagent.sidecars.grpc import client
from oneagent.sidecars.grpc import server as grpc_server
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode
from tests.fakes import node, ports
from tests.fakes.identity import IdentityDriver
from tests.node import upstream
from tests.node.sidecars import programs
from tests.node.sidecars.go_peers import GoDriver, GoKubelet

ENDPOINT = "/var/lib/kubelet/plugins/csi.oneagent.dynatrace.com/csi.sock"
GO_NAME = "csi.go.example.com"


@pytest.fixture
def go_driver(folder: Path) -> Iterator[GoDriver]:
    with GoDriver(upstream.program("driver-peer"), folder / "go.sock") as driver:
        yield driver


@pytest.fixture
def registry(folder: Path) -> Path:
    path = folder / "registry"
    path.mkdir()
    return path


@pytest.fixture
def kubelet(registry: Path, driver: IdentityDriver) -> Iterator[GoKubelet]:
    """Kubelet's client for the registration socket of `driver`."""
    socket = registry / f"{driver.name}-reg.sock"
    with GoKubelet(upstream.program("kubelet-peer"), socket) as peer:
        yield peer


Registrar = Callable[..., contextlib.AbstractContextManager[programs.Program]]
Livenessprobe = Callable[[Path], contextlib.AbstractContextManager[programs.Program]]


@pytest.fixture
def registrar(folder: Path, registry: Path) -> Registrar:
    """Starts one for the driver at a socket; it has made its own socket by then."""

    @contextlib.contextmanager
    def start(socket: Path, *more: str) -> Iterator[programs.Program]:
        line = [
            *programs.words("csi-node-driver-registrar"),
            f"--csi-address={socket}",
            f"--kubelet-registration-path={ENDPOINT}",
            f"--plugin-registration-path={registry}",
            *more,
        ]
        with programs.running(line, folder / "registrar.log") as program:
            programs.until(lambda: "waiting for kubelet" in program.log())
            yield program

    return start


@pytest.fixture
def livenessprobe(folder: Path, port: int) -> Livenessprobe:
    @contextlib.contextmanager
    def start(socket: Path) -> Iterator[programs.Program]:
        line = [
            *programs.words("livenessprobe"),
            f"--csi-address={socket}",
            "--probe-timeout=500ms",
            f"--http-endpoint=127.0.0.1:{port}",
        ]
        with programs.running(line, folder / "livenessprobe.log") as program:
            programs.until(lambda: ports.get(port)[0] != 0)
            yield program

    return start


class TestKubeletAtTheRegistrar:
    def test_registers_the_driver(self, driver: IdentityDriver, kubelet: GoKubelet, registrar: Registrar) -> None:
        driver.start()
        with registrar(driver.socket) as program:
            assert kubelet.do("dial")["codes"] == ["OK"]
            assert kubelet.info()["info"] == {
                "type": "CSIPlugin",
                "name": driver.name,
                "endpoint": ENDPOINT,
                "supported_versions": ["1.0.0"],
            }
            assert kubelet.do("notify", registered=True)["codes"] == ["OK"]
            assert "driver registered" in program.log()
            assert program.process.poll() is None

    def test_refuses_the_driver_and_is_answered(
        self, driver: IdentityDriver, kubelet: GoKubelet, registrar: Registrar
    ) -> None:
        driver.start()
        with registrar(driver.socket) as program:
            kubelet.do("dial")
            assert kubelet.do("notify", registered=False, error="NodeGetInfo: ünwell")["codes"] == ["OK"]
            assert program.ended() == 1
            assert json.loads(program.log().splitlines()[-2])["reason"] == "NodeGetInfo: ünwell"

    def test_asks_often_and_at_once(self, driver: IdentityDriver, kubelet: GoKubelet, registrar: Registrar) -> None:
        driver.start()
        with registrar(driver.socket) as program:
            kubelet.do("dial")
            before = program.resident_kib()
            for _ in range(5):
                assert kubelet.info(calls=150)["codes"] == ["OK"] * 150
            assert kubelet.info()["dials"] == 1
            assert program.resident_kib() < before + 3 * 1024

    def test_is_told_why_when_the_driver_does_not_answer(
        self, driver: IdentityDriver, kubelet: GoKubelet, registrar: Registrar
    ) -> None:
        driver.start()
        with registrar(driver.socket, "--timeout=300ms"):
            kubelet.do("dial")
            driver.hang = True
            asked = kubelet.info()
            assert asked["codes"] == ["Unavailable"]
            assert asked["messages"][0].startswith("the CSI driver does not answer: DEADLINE_EXCEEDED")
            driver.hang = False
            assert kubelet.info()["codes"] == ["OK"]

    def test_gives_up_at_its_own_deadline_and_may_ask_again(
        self, driver: IdentityDriver, kubelet: GoKubelet, registrar: Registrar
    ) -> None:
        driver.start()
        with registrar(driver.socket, "--timeout=10s"):
            kubelet.do("dial")
            driver.hang = True
            # One is being answered, the others wait behind it on the same connection.
            assert kubelet.info(calls=10, millis=300)["codes"] == ["DeadlineExceeded"] * 10
            probes = driver.probes
            driver.hang = False
            again = kubelet.info()
            assert (again["codes"], again["dials"]) == (["OK"], 1)
            # A cancellation may arrive after its call has ended at the client. With none, there would be ten more.
            assert driver.probes <= probes + 5, "work was done for calls that nobody waited for any more"

    def test_finds_the_registrar_that_follows(
        self, driver: IdentityDriver, kubelet: GoKubelet, registrar: Registrar
    ) -> None:
        driver.start()
        with registrar(driver.socket) as first:
            kubelet.do("dial")
            assert first.terminate() == 0
        assert kubelet.info()["codes"] == ["Unavailable"]
        with registrar(driver.socket):
            assert kubelet.do("dial")["codes"] == ["OK"]
            assert kubelet.info()["codes"] == ["OK"]

    def test_gets_its_answer_from_a_registrar_that_is_stopping(
        self, driver: IdentityDriver, kubelet: GoKubelet, registrar: Registrar
    ) -> None:
        driver.start()
        with registrar(driver.socket, "--timeout=10s") as program:
            kubelet.do("dial")
            driver.hang = True
            answers: list[dict[str, Any]] = []
            asking = threading.Thread(target=lambda: answers.append(kubelet.info()))
            asking.start()
            programs.until(lambda: driver.probes > 0)
            later = threading.Timer(0.5, setattr, (driver, "hang", False))
            later.start()
            assert program.terminate() == 0
            asking.join()
            later.join()
            assert answers[0]["codes"] == ["OK"]

    def test_may_stay_connected_and_ping(
        self, driver: IdentityDriver, kubelet: GoKubelet, registrar: Registrar
    ) -> None:
        driver.start()
        with registrar(driver.socket):
            kubelet.do("dial")
            kubelet.info()
            # grpc-go pings every 10 s at most; a ping that is not answered within 1 s ends the connection.
            idle = kubelet.do("wait", millis=11_500)
            assert idle["state"] == "READY"
            after = kubelet.info()
            assert (after["codes"], after["dials"]) == (["OK"], 1)


class TestOurServer:
    """Beyond what a registration needs, at a server in this process."""

    @pytest.fixture
    def server(self, registry: Path, driver: IdentityDriver) -> Iterator[dict[str, grpc_server.Handler]]:
        """The handlers of a server where `kubelet` looks for it."""
        handlers: dict[str, grpc_server.Handler] = {}
        server = grpc_server.Server(registry / f"{driver.name}-reg.sock", handlers)
        server.ensure_socket()
        yield handlers
        server.stop(5)

    def test_says_in_grpc_gos_words_what_went_wrong(
        self, server: dict[str, grpc_server.Handler], kubelet: GoKubelet
    ) -> None:
        reason = "50 % ünwell\n\t«x»"

        def fail(_request: bytes) -> bytes:
            raise RpcError(StatusCode.FAILED_PRECONDITION, reason)

        kubelet.do("dial")
        assert kubelet.info()["codes"] == ["Unimplemented"]
        server["/pluginregistration.Registration/GetInfo"] = fail
        failed = kubelet.info()
        assert (failed["codes"], failed["messages"]) == (["FailedPrecondition"], [reason])

    @pytest.mark.parametrize("length", [16_384, 65_000])
    def test_answers_at_the_pace_of_the_client(
        self, server: dict[str, grpc_server.Handler], kubelet: GoKubelet, length: int
    ) -> None:
        name = b"n" * length
        field = b"\x12" + bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + name
        server["/pluginregistration.Registration/GetInfo"] = lambda _: field
        kubelet.do("dial")
        for _ in range(3):
            assert kubelet.info(calls=20)["codes"] == ["OK"] * 20
        assert kubelet.info()["info"] == {"name": name.decode()}

    def test_refuses_a_message_that_is_too_long_at_once(
        self, server: dict[str, grpc_server.Handler], kubelet: GoKubelet
    ) -> None:
        server["/pluginregistration.Registration/NotifyRegistrationStatus"] = lambda _: b""
        kubelet.do("dial")
        assert kubelet.do("notify", error="x" * 60_000)["codes"] == ["OK"]
        refused = kubelet.do("notify", error="x" * 200_000)
        assert refused["codes"] == ["ResourceExhausted"]
        again = kubelet.do("notify", error="x" * 60_000)
        assert (again["codes"], again["dials"]) == (["OK"], 1)


class TestOurClientAtADriver:
    def test_learns_name_and_readiness(self, go_driver: GoDriver) -> None:
        driver = csi_client.Driver(str(go_driver.socket), 3)
        assert driver.name() == GO_NAME
        for ready, meant in ((None, True), (True, True), (False, False)):
            go_driver.behave(ready=ready)
            assert driver.ready() is meant

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (StatusCode.FAILED_PRECONDITION, "50 % ünwell: «%E2» \n\t\0"),
            (StatusCode.UNAVAILABLE, ""),
            (StatusCode.INTERNAL, "x" * 30_000),
        ],
    )
    def test_hears_of_an_error_with_its_reason(self, go_driver: GoDriver, code: StatusCode, message: str) -> None:
        go_driver.behave(code=code, message=message)
        with pytest.raises(RpcError) as failed:
            csi_client.Driver(str(go_driver.socket), 3).ready()
        assert (failed.value.status, failed.value.detail) == (code, message)

    def test_knows_a_method_that_is_not_there(self, go_driver: GoDriver) -> None:
        for _ in range(50):
            with pytest.raises(RpcError) as failed:
                client.call(str(go_driver.socket), "/csi.v1.Identity/Other", b"", 3)
            assert failed.value.status is StatusCode.UNIMPLEMENTED

    @pytest.mark.parametrize("sizes", [{"metadataBytes": 20_000}, {"vendorBytes": 20_000}, {"vendorBytes": 65_000}])
    def test_reads_a_long_answer(self, go_driver: GoDriver, sizes: dict[str, int]) -> None:
        go_driver.behave(**sizes)
        assert csi_client.Driver(str(go_driver.socket), 3).name() == GO_NAME

    def test_refuses_an_answer_that_is_too_long_at_once(self, go_driver: GoDriver) -> None:
        go_driver.behave(vendorBytes=70_000)
        with pytest.raises(RpcError) as failed:
            csi_client.Driver(str(go_driver.socket), 3).name()
        assert failed.value.status is StatusCode.RESOURCE_EXHAUSTED

    def test_hears_of_metadata_beyond_its_limit_at_once(self, go_driver: GoDriver) -> None:
        go_driver.behave(metadataBytes=100_000)
        with pytest.raises(RpcError) as failed:
            csi_client.Driver(str(go_driver.socket), 3).name()
        assert failed.value.status is StatusCode.INTERNAL

    def test_ends_a_slow_call_itself(self, go_driver: GoDriver) -> None:
        go_driver.behave(millis=1000)
        for _ in range(5):
            with pytest.raises(RpcError) as failed:
                csi_client.Driver(str(go_driver.socket), 0.1).ready()
            assert failed.value.status is StatusCode.DEADLINE_EXCEEDED

    def test_gets_its_answer_from_a_driver_that_is_stopping(self, go_driver: GoDriver) -> None:
        go_driver.behave(millis=700, ready=False)
        later = threading.Timer(0.2, go_driver.end, (signal.SIGTERM,))
        later.start()
        try:
            assert csi_client.Driver(str(go_driver.socket), 3).ready() is False
        finally:
            later.join()

    def test_notices_that_the_driver_was_killed(self, go_driver: GoDriver) -> None:
        go_driver.behave(millis=60_000)
        later = threading.Timer(0.2, go_driver.end)
        later.start()
        started = time.monotonic()
        with pytest.raises(RpcError) as failed:
            csi_client.Driver(str(go_driver.socket), 60).ready()
        later.join()
        assert failed.value.status is StatusCode.UNAVAILABLE
        assert time.monotonic() - started < 15


class TestTheSidecarsAtADriver:
    def test_the_livenessprobe_follows_its_health(
        self, go_driver: GoDriver, livenessprobe: Livenessprobe, port: int
    ) -> None:
        with livenessprobe(go_driver.socket) as program:
            assert ports.get(port) == (200, "ok")
            programs.until(lambda: GO_NAME in program.log())
            go_driver.behave(ready=False)
            assert ports.get(port) == (500, "driver responded but is not ready")
            go_driver.behave(millis=2000)
            assert ports.get(port)[1].startswith("DEADLINE_EXCEEDED")
            go_driver.behave(code=13, message="ünwell")
            assert ports.get(port) == (500, "INTERNAL: ünwell")
            go_driver.end()
            assert ports.get(port)[1].startswith("UNAVAILABLE")
            go_driver.start()
            go_driver.behave(ready=True)
            assert ports.get(port) == (200, "ok")
            assert go_driver.end(signal.SIGTERM) == 0
            assert ports.get(port)[0] == 500

    def test_the_registrar_registers_it_while_it_lives(
        self, go_driver: GoDriver, registrar: Registrar, registry: Path
    ) -> None:
        socket = registry / f"{GO_NAME}-reg.sock"
        with (
            registrar(go_driver.socket, "--timeout=300ms"),
            GoKubelet(upstream.program("kubelet-peer"), socket) as kubelet,
        ):
            kubelet.do("dial")
            assert kubelet.info()["info"]["name"] == GO_NAME
            go_driver.behave(code=StatusCode.UNIMPLEMENTED)
            assert kubelet.info()["codes"] == ["OK"]
            go_driver.end()
            assert kubelet.info()["codes"] == ["Unavailable"]
            go_driver.start()
            assert kubelet.info()["codes"] == ["OK"]


def test_the_sidecars_know_our_own_driver(
    tmp_path: Path, registrar: Registrar, livenessprobe: Livenessprobe, kubelet: GoKubelet, port: int
) -> None:
    with node.running(tmp_path) as (driver, _), registrar(driver.socket) as program, livenessprobe(driver.socket):
        assert ports.get(port) == (200, "ok")
        kubelet.do("dial")
        assert kubelet.info()["codes"] == ["OK"]
        driver.kill()
        assert kubelet.info()["codes"] == ["Unavailable"]
        assert ports.get(port)[0] == 500
        driver.start()
        assert kubelet.info()["codes"] == ["OK"]
        assert ports.get(port) == (200, "ok")
        assert program.terminate() == 0
