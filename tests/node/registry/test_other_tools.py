"""Images as other tools write them, and servers in front of a registry that answer in their own way.

What a digest proves is used; and a shortcut that fails says nothing about the whole.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.http import errors
from oneagent.common.oci import hosts as oci_hosts
from oneagent.common.oci import image as pulling
from oneagent.common.oci import reference
from tests.fakes import images, registry
from tests.fakes import tenant as double
from tests.fakes.images import Entry, directory, hard_link
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, eventually, manifest
from tests.fakes.registry import Front, Registry
from tests.node.registry.test_pulling import PATH, agent, image, installed, version
from tests.unit.common.unpack.test_machines import MACHINES, OTHER, elf

_MISSING = registry.missing(registry.PROGRAM, Front.PROGRAM)
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=_MISSING or "all is there")

Install = Callable[[str, str], Path]


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def server() -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        yield server


@pytest.fixture
def install(tmp_path: Path, source: FakeDynaKubeSource, server: double.Tenant) -> Callable[[str, str], Path]:
    """Have a provisioner install an image of a host by its digest; return its tree."""

    def install(host: str, digest: str) -> Path:
        source.put(manifest("demo", server.api_url, image=f"{host}/{PATH}@{digest}"))
        return installed(tmp_path, source, version(digest), f"--registry-plain-http={host}")

    return install


def changed(built: images.Image, config: dict[str, Any]) -> images.Image:
    """The image with another configuration."""
    body = json.dumps(config).encode()
    document = json.loads(built.manifest)
    document["config"] |= {"digest": images.digest(body), "size": len(body)}
    return images.Image(json.dumps(document).encode(), built.media_type, {**built.blobs, images.digest(body): body})


def without_platform(built: images.Image) -> images.Image:
    """The index without a platform in any of its entries."""
    document = json.loads(built.manifest)
    for entry in document["manifests"]:
        del entry["platform"]
    return images.Image(json.dumps(document).encode(), built.media_type, built.blobs, built.manifests)


class TestAnImage:
    def test_by_kaniko_with_perl_and_git_in_it(self, plain: Registry, install: Install) -> None:
        system = [
            directory("/"),
            Entry("usr/bin/perl", b"perl", 0o755),
            hard_link("usr/bin/perl5.36.0", "/usr/bin/perl"),
            Entry("usr/bin/git", b"git", 0o755),
            hard_link("usr/lib/git-core/git", "/usr/bin/git"),
            hard_link("usr/lib/git-core/git-add", "/usr/lib/git-core/none"),
            Entry("etc/back\\slash"),
            Entry("usr/share/\udcff"),
        ]
        tar = images.tar(*system).rstrip(b"\0")
        endless = tar + bytes(-len(tar) % 512)
        layers = [endless, images.tar(*images.agent(), form=tarfile.GNU_FORMAT)]
        install(plain.host, plain.push(PATH, image_of(*layers)))

    def test_whose_configuration_has_no_platform(self, plain: Registry, install: Install) -> None:
        """`crane append` onto nothing writes it so."""
        built = changed(image(agent()), {"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": []}})
        install(plain.host, plain.push(PATH, built))

    def test_in_an_index_without_platforms_is_found_by_its_configuration(
        self, plain: Registry, install: Install
    ) -> None:
        foreign = images.image(b"not to be read", architecture="riscv64")
        own = changed(image(agent()), {})
        built = without_platform(images.index(("linux/a", foreign), ("linux/b", own)))
        install(plain.host, plain.push(PATH, built))

    def test_without_a_platform_is_refused_by_the_machine_of_its_library(
        self, tmp_path: Path, source: FakeDynaKubeSource, server: double.Tenant, plain: Registry
    ) -> None:
        library = tmp_path / "library"
        library.write_bytes(elf(*MACHINES[OTHER]) + bytes(1000))
        built = changed(image(images.tar(*images.agent(library=library))), {})
        digest = plain.push(PATH, without_platform(images.index(("linux/a", built))))
        source.put(manifest("demo", server.api_url, image=f"{plain.host}/{PATH}@{digest}"))
        with Provisioning(tmp_path / "data", source, f"--registry-plain-http={plain.host}") as p:
            p.wait_until(lambda: f"is for {OTHER}" in p.condition(), what=p.condition)


def image_of(*layers: bytes) -> images.Image:
    return images.image(*layers, architecture=images.HERE)


def resolve(host: str) -> str:
    rules = oci_hosts.Registries(plain_http=frozenset({host}))
    with pulling.Image(reference.parse(f"{host}/{PATH}:1"), pulling.Access(rules=rules)) as opened:
        return opened.digest()


class TestAFront:
    @pytest.mark.parametrize("status", [400, 403, 404, 405, 429, 500, 501, 503])
    def test_that_refuses_head_is_asked_by_get(self, tmp_path: Path, plain: Registry, status: int) -> None:
        digest = plain.push(PATH, image(agent()))
        refusing = f"location / {{ if ($request_method = HEAD) {{ return {status}; }} {proxy_to(plain.url)} }}"
        with Front(tmp_path / "front", refusing) as front:
            assert resolve(front.host) == digest
            # nginx writes its log after its answer.
            expected = [("HEAD", status), ("GET", 200)]
            eventually(lambda: [(method, code) for method, _, code in front.requests()] == expected)

    def test_that_breaks_the_connection_after_head_is_asked_by_get(self, tmp_path: Path, plain: Registry) -> None:
        digest = plain.push(PATH, image(agent()))
        refusing = f"location / {{ if ($request_method = HEAD) {{ return 444; }} {proxy_to(plain.url)} }}"
        with Front(tmp_path / "front", refusing) as front:
            assert resolve(front.host) == digest

    def test_that_refuses_both_is_quoted_for_get(self, tmp_path: Path, plain: Registry) -> None:
        refusing = "location / { if ($request_method = HEAD) { return 500; } return 403; }"
        with (
            Front(tmp_path / "front", refusing) as front,
            pytest.raises(errors.HttpStatusError, match="answered 403"),
        ):
            resolve(front.host)

    @pytest.mark.parametrize(
        "header",
        [
            "add_header Content-Encoding aws-chunked;",
            "add_header Content-Encoding binary;",
            "add_header Content-Encoding gzip;",
            "proxy_hide_header Content-Type; add_header Content-Type text/html;",
            f"proxy_hide_header Docker-Content-Digest; add_header Docker-Content-Digest sha256:{'0' * 64};",
        ],
    )
    def test_that_names_the_bytes_wrongly_is_no_reason(
        self, tmp_path: Path, plain: Registry, install: Install, header: str
    ) -> None:
        digest = plain.push(PATH, image(agent()))
        with Front(tmp_path / "front", f"location / {{ {proxy_to(plain.url)} {header} }}") as front:
            install(front.host, digest)


def proxy_to(url: str) -> str:
    return f"proxy_pass {url}; proxy_set_header Host $http_host;"
