"""Faulty registries and mirrors: nginx in front of Debian's registry, and corrupt bytes."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import images, registry
from tests.fakes import tenant as double
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, eventually, list_corrupt, manifest
from tests.fakes.registry import Front, Registry
from tests.fakes.relay import Relay
from tests.node.registry.test_pulling import PATH, agent, image, installed, version

_MISSING = registry.missing(registry.PROGRAM, Front.PROGRAM)
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=_MISSING or "all is there")


@pytest.fixture
def server() -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        yield server


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as found:
        yield found


def passing(plain: Registry, more: str = "") -> str:
    return f"location / {{ proxy_pass {plain.url}; proxy_set_header Host $http_host; {more} }}"


BLOBS = "location ~ ^/v2/.*/blobs/"


class TestAMirror:
    def test_is_used_instead_of_the_registry(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        digest = plain.push(f"hub/{PATH}", image())
        source.put(manifest("demo", server.api_url, image=f"nowhere.invalid/{PATH}:1"))
        flags = (f"--registry-mirrors=nowhere.invalid={plain.host}/hub", f"--registry-plain-http={plain.host}")
        installed(tmp_path, source, version(digest), *flags)

    @pytest.mark.parametrize(
        "server_block",
        [
            "return 500;",
            "return 404;",
            "return 403;",
            "add_header Retry-After 3600 always; return 429;",
            "add_header Retry-After 3600 always; return 503;",
            "return 444;",
            "default_type text/html; return 200 '<html>log in</html>';",
            "return 302 http://127.0.0.1:1/;",
        ],
    )
    def test_that_is_unusable_is_skipped(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource, server_block: str
    ) -> None:
        digest = plain.push(PATH, image())
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}:1"))
        with Front(tmp_path / "front", f"location / {{ {server_block} }}") as front:
            flags = (
                f"--registry-mirrors={plain.host}={front.host}",
                f"--registry-plain-http={plain.host},{front.host}",
            )
            installed(tmp_path, source, version(digest), *flags)
            assert front.requests()

    @pytest.mark.parametrize("trouble", ["return 503;", "return 200 wrong;", "proxy_pass http://127.0.0.1:1;"])
    def test_with_manifests_and_no_layers_is_passed_over_for_those(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource, trouble: str
    ) -> None:
        digest = plain.push(PATH, image())
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        with Front(tmp_path / "front", f"{BLOBS} {{ {trouble} }} {passing(plain)}") as front:
            flags = (
                f"--registry-mirrors={plain.host}={front.host}",
                f"--registry-plain-http={plain.host},{front.host}",
            )
            installed(tmp_path, source, version(digest), *flags)
            assert [status for _, path, status in front.requests() if "/manifests/" in path] == [200]


class TestWrongBytes:
    def test_of_a_layer_are_never_unpacked(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        built = image()
        digest = plain.push(PATH, built)
        plain.corrupt_blob(built.layers[0])
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        with Provisioning(tmp_path / "data", source, f"--registry-plain-http={plain.host}") as p:
            wanted = built.layers[0].removeprefix("sha256:")
            p.wait_until(lambda: f"{wanted} was expected" in p.condition(), what=p.condition)
            assert p.store.versions() == []
            assert not any(file.stat().st_size for file in p.data.tmp.iterdir())

    def test_of_a_manifest_are_never_read(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        built = image()
        digest = plain.push(PATH, built)
        other = plain.push(PATH, image(agent("another")), "2")
        swapped = f"rewrite ^/v2/(.*)/manifests/.*$ /v2/$1/manifests/{other} break; proxy_pass {plain.url};"
        wrong = f"location ~ ^/v2/.*/manifests/ {{ {swapped} }}"
        with Front(tmp_path / "front", f"{wrong} {passing(plain)}") as front:
            source.put(manifest("demo", server.api_url, image=f"{front.host}/{PATH}@{digest}"))
            with Provisioning(tmp_path / "data", source, f"--registry-plain-http={front.host}") as p:
                p.wait_until(lambda: f"{digest} was expected" in p.condition(), what=p.condition)

    def test_of_an_image_that_is_no_agent_are_fetched_once(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        built = image(images.tar(images.Entry("bin/sh")))
        digest = plain.push(PATH, built)
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        with Provisioning(tmp_path / "data", source, f"--registry-plain-http={plain.host}") as p:
            p.wait_until(lambda: "the package has no" in p.condition(), what=p.condition)
            assert list(p.data.tmp.iterdir()) == []
            assert p.provisioner.installer._installs[version(digest)].next_at > time.monotonic() + 3000


class TestALayer:
    def test_goes_on_where_the_connection_broke(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        digest = plain.push(PATH, image(agent(filler=6 << 20)))
        with (
            Front(tmp_path / "front", f"limit_rate 4m; {passing(plain)}") as front,
            Relay("127.0.0.1", front.port) as relay,
        ):
            host = f"localhost:{relay.port}"
            source.put(manifest("demo", server.api_url, image=f"{host}/{PATH}@{digest}"))
            with Provisioning(tmp_path / "data", source, f"--registry-plain-http={host}") as p:
                p.wait_until(lambda: any(file.stat().st_size > 1 << 20 for file in p.data.tmp.glob("*.layer.part")))
                relay.cut()
                p.wait_until(lambda: p.is_ready(version(digest)), 20, what=p.condition)
                assert list_corrupt(p.data) == []
            blobs = [line for line in front.lines() if "/blobs/" in line and "range=" in line]
        assert len([line for line in blobs if "range=bytes=" in line]) == 1

    def test_is_taken_up_by_the_next_process(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        # More than what is written between two looks at whether to stop.
        built = image(images.tar(), agent(filler=20 << 20))
        digest = plain.push(PATH, built)
        with Front(tmp_path / "front", f"limit_rate 10m; {passing(plain)}") as front:
            source.put(manifest("demo", server.api_url, image=f"{front.host}/{PATH}@{digest}"))
            flag = f"--registry-plain-http={front.host}"
            with Provisioning(tmp_path / "data", source, flag) as p:
                p.wait_until(lambda: any(file.stat().st_size > 1 << 20 for file in p.data.tmp.glob("*.layer.part")))
            installed(tmp_path, source, version(digest), flag)
            fetched = [line.partition(" HTTP")[0].rpartition("/")[2] for line in front.lines() if "/blobs/" in line]
            resumed = [line for line in front.lines() if "range=bytes=" in line]
        assert fetched.count(built.layers[0]) == 1
        assert len(resumed) == 1 and built.layers[1] in resumed[0]

    def test_is_fetched_without_the_credentials_where_the_registry_sends_us_on(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        basic = base64.b64encode(f"{registry.USER}:{registry.PASSWORD}".encode()).decode()
        with Registry(tmp_path / "registry", password=True) as locked:
            digest = locked.push(PATH, image())
            storage = passing(locked, f'proxy_set_header Authorization "Basic {basic}";')
            with (
                Front(tmp_path / "storage", storage) as away,
                Front(
                    tmp_path / "front",
                    f"{BLOBS} {{ return 307 http://{away.host}$request_uri; }} {passing(locked)}",
                ) as front,
            ):
                source.secrets["pull"] = registry.pull_secret(front.host)
                kube = manifest("demo", server.api_url, image=f"{front.host}/{PATH}@{digest}")
                kube["spec"]["customPullSecret"] = "pull"
                source.put(kube)
                installed(tmp_path, source, version(digest), f"--registry-plain-http={front.host}")
                assert [line for line in front.lines() if "/blobs/" in line and f"by=Basic {basic}" in line]
                sent_on = [line for line in away.lines() if "/blobs/" in line]
                assert sent_on and all(line.endswith("by=-") for line in sent_on)

    def test_that_is_there_when_the_process_is_told_to_stop_is_not_fetched_again(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        reached = threading.Event()

        def failpoint(name: str) -> None:
            if name == "unpacking" and not reached.is_set():
                reached.set()
                installs = p.provisioner.installer._installs
                eventually(lambda: all(install.cancelled.is_set() for install in installs.values()))

        built = image(agent())
        digest = plain.push(PATH, built)
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        flag = f"--registry-plain-http={plain.host}"
        with Provisioning(tmp_path / "data", source, flag, failpoint=failpoint) as p:
            assert reached.wait(20)
        assert not p.store.has(version(digest))
        installed(tmp_path, source, version(digest), flag)
        asked = [path.rpartition("/")[2] for method, path, _ in plain.requests() if method == "GET"]
        assert asked.count(built.layers[0]) == 1
