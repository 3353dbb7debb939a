"""Versions from images in Debian's registry: each kind of access and of image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from oneagent.common.identifiers import StoreKey, Version
from oneagent.csi_driver.store import store_key
from tests.fakes import images, registry
from tests.fakes import packages as agents
from tests.fakes import tenant as double
from tests.fakes.images import Entry, whiteout
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, list_corrupt, manifest
from tests.fakes.proxy import Proxy
from tests.fakes.registry import Registry

pytestmark = pytest.mark.skipif(
    bool(registry.missing(registry.PROGRAM)), reason=registry.missing(registry.PROGRAM) or "it is there"
)

PATH = "team/agent"


@pytest.fixture
def server() -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        yield server


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as found:
        yield found


def version(digest: str) -> StoreKey:
    return store_key.of_image(digest)


def agent(text: str = "", *, filler: int = 0) -> bytes:
    """A layer with an agent; `text` makes it another one."""
    return images.tar(*images.agent(filler=filler), Entry(f"{agents.NESTED}note", text.encode()))


def image(*tars: bytes, how: str = "gzip", docker: bool = False) -> images.Image:
    return images.image(*(tars or (agent(),)), how=how, docker=docker, architecture=images.HERE)


def installed(place: Path, source: FakeDynaKubeSource, wanted: Version, *flags: str) -> Path:
    """Wait for the DynaKube's version and return its tree."""
    with Provisioning(place / "data", source, *flags) as p:
        p.wait_until(lambda: p.is_ready(wanted), what=p.condition)
        assert list_corrupt(p.data) == []
        p.wait_until(lambda: not list(p.data.tmp.iterdir()))
        return Path(p.data.agent(wanted))


class TestAnImage:
    @pytest.mark.parametrize("docker", [False, True])
    @pytest.mark.parametrize("how", ["gzip", "zstd", ""])
    def test_is_installed_by_its_digest(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource, how: str, docker: bool
    ) -> None:
        digest = plain.push(PATH, image(how=how, docker=docker))
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        tree = installed(tmp_path, source, version(digest), f"--registry-plain-http={plain.host}")
        assert (tree / f"agent/bin/{agents.VERSION}/any/liboneagentjava.so").exists()
        assert ("HEAD", f"/v2/{PATH}/manifests/{digest}", 200) not in plain.requests()

    def test_of_several_layers_is_what_they_come_to(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        above = images.tar(whiteout(f"{agents.NESTED}manifest.json"), Entry(f"{agents.NESTED}agent/added", b"new"))
        digest = plain.push(PATH, image(agent("below"), images.tar(), above, images.tar()))
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        tree = installed(tmp_path, source, version(digest), f"--registry-plain-http={plain.host}")
        assert (tree / "agent/added").read_bytes() == b"new"
        assert (tree / "note").read_text() == "below"
        assert not (tree / "manifest.json").exists()

    @pytest.mark.parametrize("docker", [False, True])
    def test_for_several_machines_is_the_one_for_this_one(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource, docker: bool
    ) -> None:
        others = [
            (f"linux/{other}", image(agent(other), docker=docker)) for other in ("s390x", "arm/v7", f"{images.HERE}/v9")
        ]
        built = images.index(*others, (f"linux/{images.HERE}", image(agent("here"), docker=docker)), docker=docker)
        digest = plain.push(PATH, built)
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        tree = installed(tmp_path, source, version(digest), f"--registry-plain-http={plain.host}")
        assert (tree / "note").read_text() == "here"

    def test_needs_no_api_server_s_answer_but_its_own(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        """The operator's decision counts: the node does not resolve the tag."""
        digest = plain.push(PATH, image())
        kube = manifest("demo", server.api_url, image=f"{plain.host}/{PATH}:1")
        kube["status"] = {"codeModules": {"imageID": f"{plain.host}/{PATH}:1@{digest}"}}
        source.put(kube)
        installed(tmp_path, source, version(digest), f"--registry-plain-http={plain.host}")
        assert ("HEAD", f"/v2/{PATH}/manifests/1", 200) not in plain.requests()


class TestATag:
    def test_that_moves_is_a_new_version(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        first = plain.push(PATH, image(agent("first")))
        source.put(
            manifest("demo", server.api_url, image=f"{plain.host}/{PATH}:1", annotations={"poll-interval": "100ms"})
        )
        with Provisioning(tmp_path / "data", source, f"--registry-plain-http={plain.host}") as p:
            p.wait_until(lambda: p.is_ready(version(first)), what=p.condition)
            second = plain.push(PATH, image(agent("second")))
            p.wait_until(lambda: p.is_ready(version(second)), what=p.condition)
            assert set(p.store.versions()) == {version(first), version(second)}

    def test_of_a_registry_that_goes_away_stays_what_it_was(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        with Registry(tmp_path / "registry") as plain:
            digest = plain.push(PATH, image())
            flag = f"--registry-plain-http={plain.host}"
            source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}:1"))
            installed(tmp_path, source, version(digest), flag)
        with Provisioning(tmp_path / "data", source, flag) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)

    def test_that_does_not_exist_is_reported(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}:none"))
        with Provisioning(tmp_path / "data", source, f"--registry-plain-http={plain.host}") as p:
            p.wait_until(
                lambda: "answered 404" in p.condition() and "manifests/none" in p.condition(), what=p.condition
            )


class TestAccess:
    @pytest.fixture
    def authority(self, source: FakeDynaKubeSource) -> trustme.CA:
        authority = trustme.CA()
        source.config_maps["authorities"] = {"certs": authority.cert_pem.bytes().decode()}
        return authority

    def test_by_tls_with_a_private_authority(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, authority: trustme.CA
    ) -> None:
        with Registry(tmp_path / "registry", authority=authority) as secure:
            digest = secure.push(PATH, image())
            source.put(manifest("demo", server.api_url, image=f"{secure.host}/{PATH}:1", trustedCAs="authorities"))
            installed(tmp_path, source, version(digest))

    def test_by_the_proxy_of_the_tenant(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, authority: trustme.CA
    ) -> None:
        with Registry(tmp_path / "registry", authority=authority) as secure, Proxy() as proxy:
            digest = secure.push(PATH, image())
            kube = manifest("demo", server.api_url, image=f"{secure.host}/{PATH}:1", trustedCAs="authorities")
            kube["spec"]["proxy"] = {"value": f"http://{proxy.address}"}
            source.put(kube)
            installed(tmp_path, source, version(digest))
        assert f"CONNECT {secure.host}" in proxy.seen

    def test_over_several_connections_for_a_large_layer(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        digest = plain.push(PATH, image(agent(filler=40 << 20), how=""))
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        installed(tmp_path, source, version(digest), f"--registry-plain-http={plain.host}")
        windows = [path for _, path, status in plain.requests() if "/blobs/" in path and status == 206]
        assert len(windows) >= 10, "four MiB each, but the first"

    def test_is_closed_to_a_registry_without_tls_unless_it_is_listed(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        plain.push(PATH, image())
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}:1"))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: "no TLS connection" in p.condition(), what=p.condition)

    def test_by_a_password(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, authority: trustme.CA
    ) -> None:
        with Registry(tmp_path / "registry", authority=authority, password=True) as locked:
            digest = locked.push(PATH, image())
            source.secrets["pull"] = registry.pull_secret(f"{locked.host}/team", "elsewhere.example")
            kube = manifest("demo", server.api_url, image=f"{locked.host}/{PATH}:1", trustedCAs="authorities")
            kube["spec"]["customPullSecret"] = "pull"
            source.put(kube)
            installed(tmp_path, source, version(digest))

    @pytest.mark.parametrize(
        ("hosts", "password", "remedy"),
        [
            ((), "", "name a pull secret that has them in spec.customPullSecret"),
            (("localhost:{port}",), "wrong", "check the credentials for localhost:{port} in the pull secret"),
        ],
    )
    def test_is_closed_without_the_right_password_and_says_what_to_do(
        self,
        tmp_path: Path,
        server: double.Tenant,
        source: FakeDynaKubeSource,
        authority: trustme.CA,
        hosts: tuple[str, ...],
        password: str,
        remedy: str,
    ) -> None:
        with Registry(tmp_path / "registry", authority=authority, password=True) as locked:
            locked.push(PATH, image())
            named = [host.format(port=locked.port) for host in hosts]
            source.secrets["pull"] = registry.pull_secret(*named, password=password)
            kube = manifest("demo", server.api_url, image=f"{locked.host}/{PATH}:1", trustedCAs="authorities")
            kube["spec"]["customPullSecret"] = "pull"
            source.put(kube)
            with Provisioning(tmp_path / "data", source) as p:
                p.wait_until(lambda: remedy.format(port=locked.port) in p.condition(), what=p.condition)
                assert "wrong" not in p.condition()

    @pytest.mark.parametrize("password", [True, False])
    def test_by_a_token(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, authority: trustme.CA, password: bool
    ) -> None:
        with (
            registry.Tokens(tmp_path, authority, password=password) as tokens,
            Registry(tmp_path / "registry", authority=authority, issuer=tokens.issuer) as locked,
        ):
            digest = locked.push(PATH, image(), token=tokens.token(PATH, ("pull", "push")))
            source.secrets["pull"] = registry.pull_secret(locked.host)
            kube = manifest("demo", server.api_url, image=f"{locked.host}/{PATH}@{digest}", trustedCAs="authorities")
            if password:
                kube["spec"]["customPullSecret"] = "pull"
            source.put(kube)
            installed(tmp_path, source, version(digest))
        (asked,) = tokens.asked
        assert (asked["service"], asked["scope"]) == ("the registry", f"repository:{PATH}:pull")
        assert asked["user"] == (registry.USER if password else "")

    def test_is_for_allowed_registries_only(
        self, tmp_path: Path, server: double.Tenant, plain: Registry, source: FakeDynaKubeSource
    ) -> None:
        digest = plain.push(PATH, image())
        allow = f"--registry-allow=registry.example,{plain.host}/team"
        source.put(manifest("good", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        source.put(manifest("bad", server.api_url, image=f"{plain.host}/teamwork/agent@sha256:{'0' * 64}"))
        with Provisioning(tmp_path / "data", source, allow, f"--registry-plain-http={plain.host}") as p:
            p.wait_until(lambda: p.is_ready(version(digest), "good"), what=p.condition)
            p.wait_until(lambda: "--registry-allow" in p.condition("bad"), what=lambda: p.condition("bad"))
        assert not [path for _, path, _ in plain.requests() if "teamwork" in path]
