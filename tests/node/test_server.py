"""The server as a process: its socket, its end, its health, its log, and that there is only one of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from oneagent.common.identifiers import Version
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.linux import process
from oneagent.csi_driver.store import store_key
from tests.fakes import node
from tests.fakes.node import Driver, Kubelet
from tests.node.answers import eventually, status_of

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HTTP2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""An empty SETTINGS frame: with it gRPC takes the connection for that of a client."""
SECRETS = ("s3cr3t-token-of-the-account", "s3cr3t-of-the-pod")


class TestSigterm:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_it_with_exit_code_0_without_its_socket_and_with_all_views_mounted(
        self, driver: Driver, kubelet: Kubelet, number: signal.Signals
    ) -> None:
        view = kubelet.publish("pod1")
        assert driver.process is not None
        driver.process.send_signal(number)
        assert driver.process.wait(10) == 0
        assert not driver.socket.exists()
        assert (view / "agent").is_dir()
        assert driver.rows()["csi-pod1"]["state"] == "mounted"
        kubelet = driver.start()
        kubelet.publish("pod1")
        kubelet.unpublish("pod1")
        assert not driver.mounts()

    @pytest.mark.parametrize("delay_milliseconds", [0, 1, 2, 5, 10, 20])
    def test_is_noticed_however_soon_after_the_start_it_comes(self, tmp_path: Path, delay_milliseconds: int) -> None:
        driver = Driver(tmp_path)
        driver.start(wait=False)
        eventually(lambda: "serving" in driver.log.read_text() or driver.socket.exists())
        time.sleep(delay_milliseconds / 1000)
        assert driver.stop() == 0

    def test_does_not_wait_for_clients_that_do_not_read(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("pod1")
        with contextlib.ExitStack() as clients:
            for greeting in (b"", _HTTP2_PREFACE, _HTTP2_PREFACE + _HTTP2_SETTINGS):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(str(driver.socket))
                client.sendall(greeting)
            time.sleep(0.3)
            began = time.monotonic()
            assert driver.stop() == 0
            assert time.monotonic() - began < 15

    def test_tells_waiting_publishes_to_come_back_at_once_and_counts_none_of_them(self, tmp_path: Path) -> None:
        with node.running(tmp_path, "--publish-wait=60s") as (driver, kubelet):
            node.want(driver.data, node.demo(version=store_key.of_version(Version("9.9.9"), "tests")))
            answers = [kubelet.begin(f"pod{number}", timeout=60) for number in range(20)]
            time.sleep(0.5)
            began = time.monotonic()
            assert driver.stop() == 0
            assert time.monotonic() - began < 15
            assert {status_of(answer.exception(20))[0] for answer in answers} == {grpc.StatusCode.UNAVAILABLE}
            assert {(row["state"], row["attempts"]) for row in driver.rows().values()} == {("waiting", 0)}
            # Kubelet, which tries again, is served by the next process.
            answer = driver.start().begin("pod0")
            node.install(driver.data, store_key.of_version(Version("9.9.9"), "tests"))
            answer.result(10)

    def test_lets_calls_that_are_under_way_end_and_loses_none_of_what_they_did(
        self, driver: Driver, kubelet: Kubelet
    ) -> None:
        done: list[str] = []
        stopped = threading.Event()

        def publish_all(first: int) -> None:
            for number in range(first, 1000, 4):
                try:
                    kubelet.publish(f"pod{number}", timeout=5)
                except grpc.RpcError:
                    return
                done.append(f"csi-pod{number}")
                if stopped.is_set():
                    return

        callers = [threading.Thread(target=publish_all, args=(first,)) for first in range(4)]
        for caller in callers:
            caller.start()
        eventually(lambda: len(done) >= 20)
        assert driver.stop() == 0
        stopped.set()
        for caller in callers:
            caller.join()
        rows = driver.rows()
        assert {volume for volume, row in rows.items() if row["state"] == "mounted"} >= set(done)
        assert len(driver.mounts()) == len(rows)


class TestTheSocket:
    def test_of_a_dead_server_is_replaced(self, driver: Driver) -> None:
        driver.kill()
        assert driver.socket.is_socket()
        driver.start().publish("pod1")

    def test_of_a_living_server_is_not_taken_from_it(self, driver: Driver, kubelet: Kubelet, tmp_path: Path) -> None:
        (tmp_path / "second").mkdir()
        second = Driver(tmp_path / "second")
        second.socket = driver.socket
        second.start(wait=False)
        assert second.process is not None
        assert second.process.wait(10) == 2
        assert f"--endpoint {driver.socket}: another server answers on this socket" in second.log.read_text()
        kubelet.publish("pod1")

    def test_is_no_excuse_for_removing_another_kind_of_file(self, tmp_path: Path) -> None:
        driver = Driver(tmp_path)
        driver.socket.parent.mkdir()
        driver.socket.write_text("precious")
        driver.start(wait=False)
        assert driver.process is not None
        assert driver.process.wait(10) == 2
        assert "exists and is not a socket; remove it" in driver.log.read_text()
        assert driver.socket.read_text() == "precious"

    def test_stands_alone_in_its_folder(self, driver: Driver) -> None:
        assert os.listdir(driver.socket.parent) == [driver.socket.name]

    def test_appears_only_when_calls_are_answered(self, driver: Driver) -> None:
        driver.stop()
        driver.start(wait=False)
        eventually(driver.socket.exists)
        with socket.socket(socket.AF_UNIX) as early:
            early.settimeout(5)
            early.connect(str(driver.socket))
            assert early.recv(9)[3] == 4, "an HTTP/2 SETTINGS frame"


class TestTheDataFolder:
    def test_belongs_to_one_server_at_a_time(self, driver: Driver) -> None:
        lock = driver.data.root / "server.lock"
        with pytest.raises(SystemExit, match=f"another process holds {lock}"), process.exclusive_lock(lock, 0.2):
            pass
        driver.stop()
        with process.exclusive_lock(lock, 0):
            pass

    def test_is_handed_over_to_a_server_that_waits_for_it(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("pod1")
        old = driver.process
        driver.start(wait=False)
        time.sleep(0.3)
        assert driver.process is not None
        assert driver.process.poll() is None
        assert old is not None
        old.terminate()
        assert old.wait(10) == 0
        eventually(driver.socket.exists)
        successor = Kubelet(driver.socket, driver.target_root)
        driver.wait_ready(successor)
        successor.unpublish("pod1")

    @pytest.mark.parametrize("folder", ["with space", "with,comma", "with:colon"])
    def test_with_a_name_that_overlay_can_not_take_is_refused(self, tmp_path: Path, folder: str) -> None:
        done = start_with(f"--data-dir={tmp_path}/{folder}", f"--target-root={tmp_path}")
        assert done.returncode == 2
        assert "--data-dir: data directory" in done.stderr


class TestTheCommandLine:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--target-root=/nowhere/at/all",), "--target-root /nowhere/at/all is not a directory"),
            (("--publish-wait=soon",), "'soon' is not a duration"),
            (("--data-dir=relative",), "'relative' is not an absolute path"),
            (("--metrics-address=8080",), "'8080' is not host:port"),
            (("--node-id=",), "--node-id is missing"),
            (("--publish=1s",), "unrecognized arguments: --publish=1s"),
        ],
    )
    def test_refuses_impossible_values_and_names_them(self, flags: tuple[str, ...], message: str) -> None:
        done = start_with(*flags)
        assert done.returncode == 2
        assert message in done.stderr


def start_with(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oneagent.csi_driver.server.main", "--node-id=node1", "--target-root=/", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


class TestHealth:
    def test_is_served_by_the_standard_service_and_by_probe(self, driver: Driver, kubelet: Kubelet) -> None:
        stub: Any = health_pb2_grpc.HealthStub(kubelet.channel)
        check = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        assert kubelet.identity.Probe(csi_pb2.ProbeRequest(), timeout=10).ready.value is True

    def test_stays_good_while_publishes_wait_for_a_download(self, driver: Driver, kubelet: Kubelet) -> None:
        node.want(driver.data, node.demo(version=store_key.of_version(Version("9.9.9"), "tests")))
        answer = kubelet.begin("pod1")
        time.sleep(0.1)
        assert kubelet.identity.Probe(csi_pb2.ProbeRequest(), timeout=10).ready.value is True
        answer.cancel()


class TestTheLog:
    def test_never_holds_a_secret_or_a_token(self, tmp_path: Path) -> None:
        with node.running(tmp_path, "--publish-wait=50ms", "--log-level=debug") as (driver, kubelet):
            for pod, dynakube, mode in (
                ("good", "demo", "app"),
                ("good", "demo", "host"),
                ("invalid", "NOT VALID", "app"),
                ("waiting", "unknown", "app"),
            ):
                kubelet.target(pod).parent.mkdir(parents=True, exist_ok=True)
                request = kubelet.request(pod, dynakube=dynakube, mode=mode)
                request.secrets["csi.storage.k8s.io/serviceAccount.tokens"] = f'{{"a":{{"token":"{SECRETS[0]}"}}}}'
                request.volume_context["csi.storage.k8s.io/serviceAccount.tokens"] = SECRETS[1]
                try:
                    kubelet.node.NodePublishVolume(request, timeout=5)
                except grpc.RpcError as error:
                    assert not any(secret in str(error) for secret in SECRETS)
            kubelet.unpublish("good")
            driver.stop()
            text = driver.log.read_text()
            assert text.count("NodePublishVolume") >= 4
            for file in (driver.log, *driver.data.root.rglob("*")):
                if file.is_file():
                    content = file.read_bytes()
                    assert not any(secret.encode() in content for secret in SECRETS), file

    def test_has_one_line_for_a_publish_with_its_pod_and_version(self, driver: Driver, kubelet: Kubelet) -> None:
        kubelet.publish("pod1")
        kubelet.unpublish("pod1")

        def lines_of_pod1() -> list[str]:
            return [line for line in driver.log.read_text().splitlines() if "csi-pod1" in line]

        eventually(lambda: len(lines_of_pod1()) == 2)
        lines = lines_of_pod1()
        assert f"NodePublishVolume: mounted  volume=csi-pod1 target={kubelet.target('pod1')} pod=pod1" in lines[0]
        assert f"version={node.VERSION}" in lines[0]


class TestKeptLogs:
    def test_are_what_a_pod_wrote_into_its_view(self, tmp_path: Path) -> None:
        with node.running(tmp_path, "--keep-logs") as (driver, kubelet):
            for content in ("first", "second"):
                view = kubelet.publish("pod1")
                (view / "agent/app.log").write_text(content)
                kubelet.unpublish("pod1")
                assert not (tmp_path / "data/volumes/csi-pod1").exists()
            kept = sorted(driver.data.logs.iterdir(), key=lambda folder: folder.stat().st_ctime_ns)
            assert [(folder / "agent/app.log").read_text() for folder in kept] == ["first", "second"]
            assert all(folder.name.startswith("csi-pod1@") for folder in kept)

    def test_are_not_kept_unless_they_are_asked_for(self, driver: Driver, kubelet: Kubelet) -> None:
        (kubelet.publish("pod1") / "agent/app.log").write_text("x")
        kubelet.unpublish("pod1")
        assert not os.listdir(driver.data.logs)
        assert not Path(driver.data.volume(VolumeId("csi-pod1")).root).exists()
