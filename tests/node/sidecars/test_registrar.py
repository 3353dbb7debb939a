"""The registrar, with kubelet's part played by the test."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import parser

from oneagent.common import distribution
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2 as registration
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2_grpc as registration_grpc
from oneagent.sidecars import csi_client
from tests.fakes import ports
from tests.fakes.identity import IdentityDriver
from tests.node.sidecars import programs
from tests.node.sidecars.programs import Program

ENDPOINT = "/var/lib/kubelet/plugins/csi.oneagent.dynatrace.com/csi.sock"
Start = Callable[..., Program]


class Kubelet:
    """What kubelet does with a socket that appears in its plugins_registry."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _stub(self) -> Iterator[registration_grpc.RegistrationStub]:
        with grpc.insecure_channel(f"unix:{self.path}") as channel:
            yield registration_grpc.RegistrationStub(channel)

    def sees_socket(self) -> bool:
        return self.path.exists()

    def reaches_socket(self) -> bool:
        """Return True once the socket takes connections, which is a moment after it is there."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.path)) == 0

    def get_info(self) -> registration.PluginInfo:
        with self._stub() as stub:
            info: registration.PluginInfo = stub.GetInfo(registration.InfoRequest(), timeout=10)
            return info

    def get_info_code(self) -> grpc.StatusCode:
        try:
            self.get_info()
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    def notify(self, registered: bool, error: str = "") -> None:
        status = registration.RegistrationStatus(plugin_registered=registered, error=error)
        with self._stub() as stub:
            stub.NotifyRegistrationStatus(status, timeout=5)


@pytest.fixture
def kubelet(folder: Path, driver: IdentityDriver) -> Kubelet:
    return Kubelet(folder / "registry" / f"{driver.name}-reg.sock")


@pytest.fixture
def start(folder: Path, driver: IdentityDriver) -> Iterator[Start]:
    (folder / "registry").mkdir()
    with contextlib.ExitStack() as leave:

        def begin(*more: str) -> Program:
            line = [
                *programs.words("csi-node-driver-registrar"),
                f"--csi-address={driver.socket}",
                f"--kubelet-registration-path={ENDPOINT}",
                f"--plugin-registration-path={folder}/registry",
                *more,
            ]
            return leave.enter_context(programs.running(line, folder / "log"))

        yield begin


def test_kubelet_learns_what_it_needs(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    start("-v=5")
    programs.until(kubelet.reaches_socket)
    assert kubelet.get_info() == registration.PluginInfo(
        type="CSIPlugin", name=driver.name, endpoint=ENDPOINT, supported_versions=["1.0.0"]
    )
    kubelet.notify(registered=True)
    assert kubelet.get_info().name == driver.name


def test_only_the_owner_can_open_the_socket(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    start()
    programs.until(kubelet.reaches_socket)
    assert stat.filemode(kubelet.path.lstat().st_mode) == "srwx------"


def test_a_driver_that_comes_later_is_waited_for(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    program = start()
    programs.until(lambda: "connecting to the driver" in program.log())
    assert not kubelet.sees_socket()
    driver.start()
    programs.until(kubelet.reaches_socket)
    assert kubelet.get_info().name == driver.name


def test_a_relative_address_of_the_driver_is_taken(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    start(f"--csi-address={os.path.relpath(driver.socket)}", "--mode=")
    programs.until(kubelet.reaches_socket)
    assert kubelet.get_info().name == driver.name


@pytest.mark.parametrize("state", ["away", "silent"])
def test_sigterm_ends_a_registrar_that_waits_for_its_driver(
    driver: IdentityDriver, kubelet: Kubelet, start: Start, state: str
) -> None:
    if state == "silent":
        driver.hang = True
        driver.start()
    program = start("--timeout=1m", "--stay-while-driver-serves")
    programs.until(lambda: "connecting to the driver" in program.log())
    began = time.monotonic()
    assert program.terminate() == 0
    # A second, and time for a busy machine; without the signal it would wait for 30 s or more.
    assert time.monotonic() - began < 10
    assert not kubelet.sees_socket()


def test_sigterm_removes_the_socket_and_ends_with_0(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    program = start()
    programs.until(kubelet.reaches_socket)
    kubelet.get_info()
    assert program.terminate() == 0
    assert not kubelet.sees_socket()


def test_an_old_socket_is_replaced(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    socket.create_server(str(kubelet.path), family=socket.AF_UNIX).close()
    driver.start()
    start()
    programs.until(lambda: kubelet.get_info_code() is grpc.StatusCode.OK)


def test_a_file_in_the_sockets_place_is_an_error_and_stays(
    driver: IdentityDriver, kubelet: Kubelet, start: Start
) -> None:
    kubelet.path.write_text("precious")
    driver.start()
    assert start().ended() == 1
    assert kubelet.path.read_text() == "precious"


def test_a_refused_registration_ends_with_1(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    program = start()
    programs.until(kubelet.reaches_socket)
    with contextlib.suppress(grpc.RpcError):
        kubelet.notify(registered=False, error="NodeGetInfo failed")
    assert program.ended() == 1
    assert "NodeGetInfo failed" in program.log()


def test_a_driver_without_a_name_ends_with_1(driver: IdentityDriver, start: Start) -> None:
    driver.name = ""
    driver.start()
    assert start().ended() == 1


def test_healthz_says_ok(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    start(f"--http-endpoint=127.0.0.1:{port}")
    programs.until(lambda: ports.get(port) == (200, "ok"))


def test_its_version_and_process_are_metrics(driver: IdentityDriver, start: Start, port: int) -> None:
    driver.start()
    program = start(f"--http-endpoint=127.0.0.1:{port}")
    programs.until(lambda: ports.get(port) == (200, "ok"))
    code, page = ports.get(port, "/metrics")
    values = {
        sample.name: sample for family in parser.text_string_to_metric_families(page) for sample in family.samples
    }
    assert code == 200
    assert values["oneagent_build_info"].labels == {"component": "registrar", "version": distribution.version()}
    statm = Path(f"/proc/{program.process.pid}/statm").read_text().split()
    resident = int(statm[1]) * os.sysconf("SC_PAGE_SIZE")
    assert values["process_resident_memory_bytes"].value == pytest.approx(resident, rel=0.1)


def test_the_deprecated_probe_mode_ends_with_0(start: Start) -> None:
    assert start("--mode=kubelet-registration-probe").ended() == 0


def test_two_ports_for_health_are_one_too_many(start: Start) -> None:
    assert start("--health-port=9809", "--http-endpoint=127.0.0.1:9810").ended() == 2


# on purpose unlike the Go program of that name


def test_a_dead_driver_is_not_registered_and_a_returning_one_is(
    driver: IdentityDriver, kubelet: Kubelet, start: Start, port: int
) -> None:
    driver.start()
    start(f"--http-endpoint=127.0.0.1:{port}", "--timeout=300ms")
    programs.until(kubelet.reaches_socket)
    driver.stop()
    assert kubelet.get_info_code() is grpc.StatusCode.UNAVAILABLE
    status, body = ports.get(port)
    assert status == 500
    assert "the CSI driver does not answer" in body
    driver.start()
    assert kubelet.get_info_code() is grpc.StatusCode.OK
    assert ports.get(port) == (200, "ok")


def test_a_driver_that_hangs_is_not_registered(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    start("--timeout=300ms")
    programs.until(kubelet.reaches_socket)
    driver.hang = True
    assert kubelet.get_info_code() is grpc.StatusCode.UNAVAILABLE


def test_a_driver_that_is_not_ready_yet_or_has_no_probe_is_registered(
    driver: IdentityDriver, kubelet: Kubelet, start: Start
) -> None:
    driver.start()
    start()
    programs.until(kubelet.reaches_socket)
    driver.ready = False
    assert kubelet.get_info_code() is grpc.StatusCode.OK
    driver.failure = grpc.StatusCode.UNIMPLEMENTED
    assert kubelet.get_info_code() is grpc.StatusCode.OK
    driver.failure = grpc.StatusCode.FAILED_PRECONDITION
    assert kubelet.get_info_code() is grpc.StatusCode.UNAVAILABLE


def test_a_refusal_is_answered_first_and_leaves_no_socket(
    driver: IdentityDriver, kubelet: Kubelet, start: Start
) -> None:
    driver.start()
    program = start()
    programs.until(kubelet.reaches_socket)
    kubelet.notify(registered=False, error="no")
    assert program.ended() == 1
    assert not kubelet.sees_socket()


def test_a_removed_socket_is_made_anew(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    start()
    programs.until(kubelet.reaches_socket)
    kubelet.path.unlink()
    programs.until(kubelet.reaches_socket)
    assert kubelet.get_info().name == driver.name
    assert stat.filemode(kubelet.path.lstat().st_mode) == "srwx------"


def test_sigterm_waits_for_the_answer_to_kubelet(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    program = start("--timeout=10s")
    programs.until(kubelet.reaches_socket)
    driver.hang = True
    codes: list[grpc.StatusCode] = []
    asking = threading.Thread(target=lambda: codes.append(kubelet.get_info_code()))
    asking.start()
    programs.until(lambda: driver.probes > 0)
    later = threading.Timer(0.5, setattr, (driver, "hang", False))
    later.start()
    assert program.terminate() == 0
    asking.join()
    later.join()
    assert codes == [grpc.StatusCode.OK]


class TestToldToStayWhileTheDriverServes:
    @pytest.fixture
    def program(self, driver: IdentityDriver, kubelet: Kubelet, start: Start) -> Program:
        """Has had its SIGTERM."""
        driver.start()
        program = start("--stay-while-driver-serves")
        programs.until(kubelet.reaches_socket)
        program.process.terminate()
        programs.until(lambda: "staying registered until the driver has ended" in program.log())
        return program

    def test_sigterm_ends_it_after_the_driver(self, driver: IdentityDriver, kubelet: Kubelet, program: Program) -> None:
        # It looks whether the driver is there before it makes the socket again.
        kubelet.path.unlink()
        programs.until(kubelet.reaches_socket)
        assert program.process.poll() is None
        assert kubelet.get_info().name == driver.name
        driver.stop()
        assert program.ended(within_seconds=3) == 0
        assert not kubelet.sees_socket()

    def test_a_removed_socket_is_still_made_anew(self, kubelet: Kubelet, program: Program) -> None:
        kubelet.path.unlink()
        programs.until(kubelet.reaches_socket)

    def test_a_second_sigterm_ends_it(self, kubelet: Kubelet, program: Program) -> None:
        assert program.terminate() == 0
        assert not kubelet.sees_socket()

    def test_the_drivers_successor_does_not_hold_it(
        self, driver: IdentityDriver, kubelet: Kubelet, program: Program
    ) -> None:
        driver.stop()
        driver.start()
        assert program.ended(within_seconds=3) == 0

    def test_the_registration_of_its_own_successor_survives_it(
        self, driver: IdentityDriver, kubelet: Kubelet, start: Start, program: Program
    ) -> None:
        before = csi_client.file_id(str(kubelet.path))
        successor = start("--stay-while-driver-serves")
        programs.until(lambda: csi_client.file_id(str(kubelet.path)) not in {before, None})
        driver.stop()
        driver.start()
        assert program.ended(within_seconds=3) == 0
        assert kubelet.get_info().name == driver.name
        assert successor.process.poll() is None


def test_healthz_knows_that_there_is_no_socket(
    driver: IdentityDriver, kubelet: Kubelet, start: Start, port: int
) -> None:
    driver.start()
    start(f"--health-port={port}")
    programs.until(lambda: ports.get(port) == (200, "ok"))
    # It is made anew within a second, unless its folder is gone too.
    moved = kubelet.path.parent.rename(kubelet.path.parent.with_name("moved"))
    assert ports.get(port) == (404, "registration socket does not exist")
    moved.rename(kubelet.path.parent)
    programs.until(lambda: ports.get(port) == (200, "ok"))


def test_the_registrar_stays_small(driver: IdentityDriver, kubelet: Kubelet, start: Start) -> None:
    driver.start()
    program = start()
    programs.until(kubelet.reaches_socket)
    for _ in range(20):
        kubelet.get_info()
    assert program.resident_kib() < 28 * 1024
