"""Nodes and their mirror, as processes: kills of the mirror, and its memory."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from oneagent.common import package_client
from tests.fakes import package_server as fakes
from tests.fakes import packages, provisioner
from tests.fakes import tenant as double
from tests.fakes.provisioner import Process, eventually, list_corrupt, manifest
from tests.fakes.relay import Relay

VERSION = packages.VERSION
LARGE = 150 << 20


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent of 150 MB, not compressed: the tests measure its transfer."""
    path = packages.build(tmp_path_factory.mktemp("packages") / "agent.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("agent/filler.bin"), random.Random(VERSION).randbytes(50 << 20) * 3)
    return path


@pytest.fixture
def server(package: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(VERSION, package)
        yield server


class Endpoint:
    """The endpoint as a process; `start` may be repeated after `kill`, at the same address."""

    def __init__(self, place: Path, tenant: double.Tenant) -> None:
        place.mkdir()
        self.place = place
        authority = trustme.CA()
        pair = fakes.Pair(authority).pair
        (place / "chain.pem").write_bytes(pair.chain)
        (place / "key.pem").write_bytes(pair.key)
        (place / "ca.crt").write_bytes(authority.cert_pem.bytes())
        (place / "token").write_text(fakes.token())
        self._tenant, self.port = tenant, 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port_file = self.place / "port"
        port_file.unlink(missing_ok=True)
        given = {
            "directory": self.place / "packages",
            "pem": self.place,
            "tenant": self._tenant.api_url,
            "version": VERSION,
            "port": self.port,
            "port-file": port_file,
        }
        command = [sys.executable, "-m", "tests.fakes.package_server"]
        self.process = subprocess.Popen([*command, *(f"--{name}={value}" for name, value in given.items())])
        eventually(port_file.exists, 20)
        self.port = int(port_file.read_text())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def resident(self, which: str) -> int:
        """Return bytes: `VmRSS` now, `VmHWM` at the peak."""
        assert self.process is not None
        found = re.search(rf"{which}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) << 10

    @property
    def flags(self) -> tuple[str, ...]:
        return self.flags_by(self.port)

    def flags_by(self, port: int) -> tuple[str, ...]:
        """Return the flags of a node that reaches it by this port."""
        return (
            f"--package-mirror=https://127.0.0.1:{port}",
            f"--package-mirror-ca={self.place / 'ca.crt'}",
            f"--package-mirror-token={self.place / 'token'}",
        )

    @property
    def client(self) -> package_client.Endpoint:
        url = f"https://127.0.0.1:{self.port}"
        return package_client.Endpoint(url, self.place / "token", self.place / "ca.crt")


@pytest.fixture
def endpoint(tmp_path: Path, server: double.Tenant) -> Iterator[Endpoint]:
    endpoint = Endpoint(tmp_path / "endpoint", server)
    endpoint.start()
    try:
        yield endpoint
    finally:
        endpoint.kill()


def has_mirror_part(process: Process) -> bool:
    """Return True if a node has a part of the mirror's package."""
    return any(file.stat().st_size > 8 << 20 for file in process.data.tmp.glob("*.mirror.zip.part"))


def test_a_cluster_downloads_a_version_once(tmp_path: Path, server: double.Tenant, endpoint: Endpoint) -> None:
    places = [tmp_path / "node1", tmp_path / "node2"]
    for place in places:
        place.mkdir()
    nodes = [Process(place, *endpoint.flags) for place in places]
    try:
        for node in nodes:
            node.set_dynakubes(manifest("demo", server.api_url))
            node.start()
        for node in nodes:
            node.await_ready(VERSION, seconds=60)
            assert list_corrupt(node.data) == []
    finally:
        for node in nodes:
            node.kill()
    assert server.count("package") == 1


def test_a_node_goes_to_the_tenant_after_the_mirror_is_killed(
    tmp_path: Path, server: double.Tenant, endpoint: Endpoint
) -> None:
    package_client.wait_for_package(endpoint.client, fakes.package(VERSION), cancelled=threading.Event())
    assert server.count("package") == 1
    with provisioner.running(tmp_path, *endpoint.flags) as node:
        node.set_dynakubes(manifest("demo", server.api_url))
        eventually(lambda: has_mirror_part(node), 20)
        endpoint.kill()
        node.await_ready(VERSION, seconds=60)
        assert "mirror failed, trying the tenant" in node.log.read_text()
        assert list_corrupt(node.data) == []
        whole = [seen for seen in server.requests if seen.endpoint == "package" and "Range" not in seen.headers]
        assert len(whole) == 2


def test_a_node_resumes_when_the_mirror_is_back(tmp_path: Path, server: double.Tenant, endpoint: Endpoint) -> None:
    """A node waits a few seconds for its mirror, and a process may start for longer: new connections wait meanwhile."""
    package_client.wait_for_package(endpoint.client, fakes.package(VERSION), cancelled=threading.Event())
    with (
        Relay("127.0.0.1", endpoint.port) as relay,
        provisioner.running(tmp_path, *endpoint.flags_by(relay.port)) as node,
    ):
        node.set_dynakubes(manifest("demo", server.api_url))
        eventually(lambda: has_mirror_part(node), 20)
        relay.gate.clear()
        endpoint.kill()
        endpoint.start()
        relay.gate.set()
        node.await_ready(VERSION, seconds=60)
        assert "download interrupted, retrying" in node.log.read_text()
        assert list_corrupt(node.data) == []
    assert server.count("package") == 1


def test_a_transfer_of_150_mb_takes_little_memory(
    tmp_path: Path, endpoint: Endpoint, record_property: Callable[[str, object], None]
) -> None:
    before = endpoint.resident("VmRSS")
    never = threading.Event()
    package_client.download_package(endpoint.client, fakes.package(VERSION), tmp_path / "first.zip", cancelled=never)
    one = endpoint.resident("VmHWM") - before

    def fetch(number: int) -> None:
        into = tmp_path / f"agent{number}.zip"
        sizes.append(
            package_client.download_package(endpoint.client, fakes.package(VERSION), into, cancelled=never).size
        )
        into.unlink()

    sizes: list[int] = []
    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eight = endpoint.resident("VmHWM") - before
    assert len(sizes) == 8
    assert min(sizes) > LARGE
    for name, value in (("at start", before), ("download and one transfer", one), ("eight transfers", eight)):
        record_property(f"MiB {name}", round(value / (1 << 20), 1))
    assert one < 48 << 20
    assert eight < 96 << 20
