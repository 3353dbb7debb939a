"""Commands that listen at `:PORT`, in a network namespace of their own, with IPv6 and without."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
PORT = 9808
COMMANDS = {
    "livenessprobe": ["oneagent.sidecars.livenessprobe", f"--http-endpoint=:{PORT}", "--csi-address=PLACE/csi.sock"],
    "webhook": ["oneagent.webhook.main", f"--metrics-address=:{PORT}", "--address=127.0.0.1:0", "--image=x"],
    "operator": ["oneagent.operator.main", f"--metrics-address=:{PORT}"],
    "provisioner": [
        *("oneagent.csi_driver.provisioner.main", f"--metrics-address=:{PORT}", "--data-dir=PLACE/data"),
        *("--dynakube-source=directory", "--dynakubes=PLACE"),
    ],
}


def in_own_network(body: Callable[[], None], *, ipv6: bool) -> None:
    """Call a function whose sockets and processes are in a network of only the loopback device."""
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            if not ipv6:
                Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            body()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def running(words: list[str], place: Path) -> Iterator[subprocess.Popen[bytes]]:
    config = place / "kubeconfig"
    config.write_text(
        '{"current-context": "x", "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}],'
        ' "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}], "users": [{"name": "x", "user": {}}]}'
    )
    words = [word.replace("PLACE", str(place)) for word in words]
    environment = os.environ | {"KUBECONFIG": str(config)}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *words], env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def can_connect(host: str) -> bool:
    try:
        socket.create_connection((host, PORT), timeout=5).close()
    except OSError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("ipv6", [True, False], ids=["with IPv6", "without IPv6"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_port_without_host_is_served_by_every_family_that_the_node_has(
    command: str, ipv6: bool, tmp_path: Path
) -> None:
    def body() -> None:
        with running(COMMANDS[command], tmp_path):
            until(lambda: can_connect("127.0.0.1"))
            assert can_connect("::1") is ipv6

    in_own_network(body, ipv6=ipv6)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_address_of_ipv6_is_served_alone(command: str, tmp_path: Path) -> None:
    def body() -> None:
        with running([word.replace(f"=:{PORT}", f"=[::1]:{PORT}") for word in COMMANDS[command]], tmp_path):
            until(lambda: can_connect("::1"))
            assert not can_connect("127.0.0.1")

    in_own_network(body, ipv6=True)


@pytest.mark.parametrize("address", ["[2001:db8::1]:9808", "a..b:9808"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_address_at_which_nothing_can_listen_ends_a_command_with_one_line(
    command: str, address: str, tmp_path: Path
) -> None:
    def body() -> None:
        words = [word.replace(f"=:{PORT}", f"={address}") for word in COMMANDS[command]]
        with running(words, tmp_path) as process:
            assert process.wait(30) in (1, 2)
        said = (tmp_path / "log").read_text()
        problems = [line for line in said.splitlines() if '"level": "INFO"' not in line]
        assert len(problems) == 1, said
        assert "Traceback" not in said

    in_own_network(body, ipv6=True)


def test_a_busy_port_ends_the_operator_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with running(["oneagent.operator.main", f"--metrics-address=127.0.0.1:{port}"], tmp_path) as process:
            assert process.wait(30) == 1
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert "ddress already in use" in said
