"""The node's ports among neighbours that open connections and say nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import node, ports, provisioner
from tests.node.answers import eventually
from tests.node.sidecars import programs

NEIGHBOURS = 1500
BOUND = 32
DESCRIPTORS = 1024
"""The usual limit of a process in a container."""


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """For the neighbours' ends, which are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * NEIGHBOURS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def neighbours(port: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(NEIGHBOURS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            # It may have lost its place to a later one by now.
            with contextlib.suppress(OSError):
                client.sendall(say)
            found.append(client)
        yield found


def limit_descriptors(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def page(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("say", [b"", b"GET /metrics HTTP/1.1\r\nX: "])
def test_publishes_are_untouched_by_1500_connections_to_the_metrics(tmp_path: Path, say: bytes) -> None:
    port = ports.free()
    with node.running(tmp_path, f"--metrics-address=:{port}") as (driver, kubelet):
        assert driver.process is not None
        server = driver.process.pid
        limit_descriptors(server)
        before = descriptors(server)
        with neighbours(port, say):
            began = time.monotonic()
            for number in range(20):
                kubelet.publish(f"pod{number}")
                kubelet.unpublish(f"pod{number}")
            assert time.monotonic() - began < 15
            assert "oneagent_csi_call_duration_seconds" in page(port)
            # Two for calls that may be under way.
            eventually(lambda: descriptors(server) <= before + BOUND + 2)
        assert "Too many open files" not in driver.log.read_text()
        assert "oneagent_csi_call_duration_seconds" in page(port)


def test_a_provisioner_is_untouched_by_1500_connections_to_its_metrics(tmp_path: Path) -> None:
    port = ports.free()
    with provisioner.running(tmp_path, f"--metrics-address=:{port}") as process:
        assert process.process is not None
        eventually(lambda: ports.get(port, "/metrics")[0] == 200, 20)
        pid = process.process.pid
        limit_descriptors(pid)
        with neighbours(port):
            assert "oneagent_csi_dynakubes" in page(port)
            eventually(lambda: descriptors(pid) < BOUND + 30)


def test_a_liveness_probe_is_answered_among_1500_connections(tmp_path: Path) -> None:
    port = ports.free()
    with node.running(tmp_path) as (driver, _):
        flags = (f"--csi-address={driver.socket}", f"--http-endpoint=:{port}")
        with programs.running([*programs.words("livenessprobe"), *flags], tmp_path / "probe.log") as probe:
            eventually(lambda: ports.get(port)[0] == 200)
            limit_descriptors(probe.process.pid)
            with neighbours(port):
                for _ in range(3):
                    assert page(port, "/healthz") == "ok"
                eventually(lambda: descriptors(probe.process.pid) < BOUND + 20)
