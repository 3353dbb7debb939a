"""nginx between us and a registry or a tenant: rate limits, broken connections, a cache, corrupt bytes, low speed.

A version comes whole in the end, by no more bytes and no more requests than that takes, or one line says why not.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oneagent.common.http import download
from oneagent.common.identifiers import Version
from oneagent.common.oci import hosts as oci_hosts
from oneagent.common.oci import image as pulling
from oneagent.common.oci import reference
from oneagent.common.tenant import client as tenant_client
from tests.fakes import images, packages, registry
from tests.fakes import tenant as double
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, list_corrupt, manifest
from tests.fakes.registry import Front, Registry
from tests.fakes.relay import Relay
from tests.node.registry.test_pulling import PATH, agent, image, installed, version

_MISSING = registry.missing(registry.PROGRAM, Front.PROGRAM)
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=_MISSING or "all is there")

VERSION = Version(packages.VERSION)
BLOBS = "location ~ ^/v2/.*/blobs/"
WITHOUT_RANGES = 'proxy_set_header Range ""; proxy_set_header If-Range "";'
SIZE = 3 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(VERSION, packages.build(tmp_path / "agent.zip", filler=SIZE))
        yield server


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        yield registry


def proxy_to(url: str, more: str = "") -> str:
    return f"proxy_pass {url}; proxy_set_header Host $http_host; {more}"


def list_leftovers(p: Provisioning) -> list[str]:
    """Return the files of packages and trees in `tmp/`, except for empty parts."""
    return [file.name for file in p.data.tmp.iterdir() if file.is_dir() or file.stat().st_size]


def zip_source(server: double.Tenant, port: int) -> download.HttpSource:
    return tenant_client.package_source(
        tenant_client.TenantAccess(f"http://localhost:{port}/api", server.token), VERSION
    )


def layer_source(digest: str, port: int) -> download.HttpSource:
    host = f"localhost:{port}"
    rules = oci_hosts.Registries(plain_http=frozenset({host}))
    with pulling.Image(reference.parse(f"{host}/{PATH}@{digest}"), pulling.Access(rules=rules)) as image:
        (layer,) = image.layers()
    (source,) = layer.sources
    assert isinstance(source, download.HttpSource)
    return source


class TestBrokenConnections:
    """Twelve breaks for each file, at random offsets of a seed."""

    BREAKS = 12

    @pytest.fixture
    def target_dir(self, tmp_path: Path) -> Path:
        directory = tmp_path / "came"
        directory.mkdir()
        return directory

    def fetch(self, source: download.HttpSource, into: Path, relay: Relay, seed: int) -> int:
        """Download through planned breaks; return the bytes received."""
        chance = random.Random(seed)
        relay.planned.extend(
            chance.choice((chance.randrange(600), chance.randrange(SIZE // 8))) for _ in range(self.BREAKS)
        )
        before = relay.passed
        limits = download.DownloadLimits(attempts=self.BREAKS + 1)
        download.download(source, into, cancelled=threading.Event(), limits=limits, sleep=lambda _seconds: None)
        assert not relay.planned, "each break was met"
        assert [path.name for path in into.parent.iterdir()] == [into.name]
        return relay.passed - before

    @pytest.mark.parametrize("seed", range(5))
    def test_cost_no_byte_of_a_zip_twice(
        self, tmp_path: Path, target_dir: Path, server: double.Tenant, seed: int
    ) -> None:
        upstream = proxy_to(f"http://127.0.0.1:{server.port}")
        with (
            Front(tmp_path / "front", f"location / {{ {upstream} }}") as front,
            Relay("127.0.0.1", front.port) as relay,
        ):
            came = self.fetch(zip_source(server, relay.port), target_dir / "agent.zip", relay, seed)
        whole = (tmp_path / "agent.zip").read_bytes()
        assert (target_dir / "agent.zip").read_bytes() == whole
        assert came < len(whole) + 13 * 1000  # the answers' headers

    @pytest.mark.parametrize("seed", range(5))
    def test_cost_no_byte_of_a_layer_twice(self, tmp_path: Path, target_dir: Path, plain: Registry, seed: int) -> None:
        built = image(agent(filler=SIZE))
        digest = plain.push(PATH, built)
        with (
            Front(tmp_path / "front", f"location / {{ {proxy_to(plain.url)} }}") as front,
            Relay("127.0.0.1", front.port) as relay,
        ):
            came = self.fetch(layer_source(digest, relay.port), target_dir / "layer", relay, seed)
        whole = built.blobs[built.layers[0]]
        assert (target_dir / "layer").read_bytes() == whole
        assert came < len(whole) + 13 * 1000

    def test_bring_a_whole_file_even_where_no_range_is_served(
        self, tmp_path: Path, target_dir: Path, server: double.Tenant
    ) -> None:
        upstream = proxy_to(f"http://127.0.0.1:{server.port}", WITHOUT_RANGES)
        with (
            Front(tmp_path / "front", f"location / {{ {upstream} }}") as front,
            Relay("127.0.0.1", front.port) as relay,
        ):
            came = self.fetch(zip_source(server, relay.port), target_dir / "agent.zip", relay, 1)
        whole = (tmp_path / "agent.zip").read_bytes()
        assert (target_dir / "agent.zip").read_bytes() == whole
        assert came > len(whole) + SIZE // 8


class TestALimitOfRequests:
    @pytest.mark.parametrize(
        ("status", "header", "pause"),
        [
            (429, "add_header Retry-After 2 always;", 2.0),
            (503, "add_header Retry-After 2 always;", 2.0),
            (500, "", 0.5),
        ],
    )
    def test_is_obeyed_and_the_version_comes(
        self,
        tmp_path: Path,
        server: double.Tenant,
        plain: Registry,
        source: FakeDynaKubeSource,
        status: int,
        header: str,
        pause: float,
    ) -> None:
        digest = plain.push(PATH, image())
        limited = f"limit_req zone=few; limit_req_status {status}; {header} {proxy_to(plain.url)}"
        with Front(
            tmp_path / "front",
            f"{BLOBS} {{ {limited} }} location / {{ {proxy_to(plain.url)} }}",
            more="limit_req_zone $server_port zone=few:1m rate=40r/m;",
        ) as front:
            source.put(manifest("demo", server.api_url, image=f"{front.host}/{PATH}@{digest}"))
            with Provisioning(tmp_path / "data", source, f"--registry-plain-http={front.host}") as p:
                p.wait_until(lambda: p.is_ready(version(digest)), 40, what=p.condition)
                assert list_corrupt(p.data) == []
            answers = front.answers("/blobs/")
        pauses = [after - before for (before, said), (after, _) in itertools.pairwise(answers) if said == status]
        assert pauses and min(pauses) >= pause, front.lines()

    @pytest.mark.parametrize("status", [429, 503])
    def test_longer_than_a_download_waits_is_obeyed_too(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, status: int
    ) -> None:
        wait = f"location ~ /version/ {{ add_header Retry-After 700 always; return {status}; }}"
        with Front(
            tmp_path / "front", f"{wait} location / {{ {proxy_to(f'http://127.0.0.1:{server.port}')} }}"
        ) as front:
            source.put(manifest("demo", f"http://{front.host}/api", version=VERSION))
            with Provisioning(tmp_path / "data", source) as p:
                p.wait_until(lambda: f"answered {status}" in p.condition(), what=p.condition)
                assert p.provisioner.installer._installs[p.key()].next_at > time.monotonic() + 600
                assert "\n" not in p.condition() and list_leftovers(p) == []
            assert len(front.answers("/version/")) == 1


def corrupted(data: bytes) -> bytes:
    return data[:500] + bytes([data[500] ^ 1]) + data[501:]


class TestAMirror:
    def mirrors(self, plain: Registry, *fronts: Front) -> tuple[str, str]:
        hosts = [front.host for front in fronts]
        return (
            f"--registry-mirrors={','.join(f'{plain.host}={host}' for host in hosts)}",
            f"--registry-plain-http={','.join((plain.host, *hosts))}",
        )

    def test_with_a_cache_fetches_once_for_all_nodes(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        built = image(agent(filler=SIZE), images.tar())
        digest = plain.push(PATH, built)
        kept = "proxy_cache kept; proxy_cache_valid 200 1h; proxy_cache_lock on; proxy_ignore_headers Cache-Control;"
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        with Front(
            tmp_path / "front",
            f"location / {{ {proxy_to(plain.url, kept)} }}",
            more=f"proxy_cache_path {tmp_path}/kept keys_zone=kept:1m;",
        ) as front:
            for node in "abc":
                installed(tmp_path / node, source, version(digest), *self.mirrors(plain, front))
        gets = [path.rpartition("/")[2] for method, path, _ in plain.requests() if method == "GET" and path != "/v2/"]
        assert sorted(gets) == sorted({digest, *built.blobs})

    @pytest.mark.parametrize(
        "change",
        [corrupted, lambda data: data[:-100], lambda data: data + b"more", lambda data: b""],
        ids=["other bytes", "cut short", "too long", "empty"],
    )
    def test_with_a_wrong_copy_is_passed_over(
        self,
        tmp_path: Path,
        server: double.Tenant,
        plain: Registry,
        source: FakeDynaKubeSource,
        change: Callable[[bytes], bytes],
    ) -> None:
        built = image(agent(filler=SIZE))
        digest = plain.push(PATH, built)
        copy = tmp_path / f"copies/v2/{PATH}/blobs/{built.layers[0]}"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(change(built.blobs[built.layers[0]]))
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        copies = f"{BLOBS} {{ root {tmp_path}/copies; default_type application/octet-stream; }}"
        with Front(tmp_path / "front", f"{copies} location / {{ {proxy_to(plain.url)} }}") as front:
            installed(tmp_path, source, version(digest), *self.mirrors(plain, front))
            assert [status for _, status in front.answers(built.layers[0])] == [200]

    def test_that_is_busy_is_left_for_the_next_one_at_once(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        digest = plain.push(PATH, image())
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        busy = "location / { add_header Retry-After 3600 always; return 429; }"
        with (
            Front(tmp_path / "busy", busy) as first,
            Front(tmp_path / "free", f"location / {{ {proxy_to(plain.url)} }}") as second,
        ):
            installed(tmp_path, source, version(digest), *self.mirrors(plain, first, second))
            assert len(first.requests()) == 3  # the manifest, the configuration and the layer: once each
            assert [status for _, _, status in second.requests()] == [200, 200, 200]


class TestATenantBehindAProxy:
    @pytest.mark.parametrize(
        ("trouble", "said"),
        [
            ("default_type text/html; return 200 '<html>log in</html>';", "a web page instead of a package"),
            ("default_type application/zip; return 200 'no zip';", "not a readable zip"),
            (
                "sub_filter_types *; sub_filter lib64 lib65; sub_filter_once off; {passing}",
                "the package has no agent/lib64",
            ),
        ],
    )
    def test_that_spoils_the_package_leaves_one_line_and_no_byte(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, trouble: str, said: str
    ) -> None:
        upstream = proxy_to(f"http://127.0.0.1:{server.port}")
        package_location = f"location ~ /version/ {{ {trouble.replace('{passing}', upstream)} }}"
        with Front(tmp_path / "front", f"{package_location} location / {{ {upstream} }}") as front:
            source.put(manifest("demo", f"http://{front.host}/api", version=VERSION))
            with Provisioning(tmp_path / "data", source) as p:
                p.wait_until(lambda: said in p.condition(), 40, what=p.condition)
                assert "\n" not in p.condition() and len(p.condition()) < 400
                assert list_leftovers(p) == [] and p.store.versions() == []

    def test_that_is_slow_and_breaks_brings_it_by_going_on(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        upstream = proxy_to(f"http://127.0.0.1:{server.port}", "limit_rate 3m;")
        with (
            Front(tmp_path / "front", f"location / {{ {upstream} }}") as front,
            Relay("127.0.0.1", front.port) as relay,
        ):
            source.put(manifest("demo", f"http://localhost:{relay.port}/api", version=VERSION))
            with Provisioning(tmp_path / "data", source) as p:
                p.wait_until(lambda: any(file.stat().st_size > 1 << 20 for file in p.data.tmp.glob("*.part")))
                relay.cut()
                p.wait_until(lambda: p.is_ready(VERSION), 20, what=p.condition)
                assert list_corrupt(p.data) == [] and list_leftovers(p) == []
            assert [status for _, status in front.answers("/version/")][-1] == 206
            assert relay.passed < 1.1 * (tmp_path / "agent.zip").stat().st_size
