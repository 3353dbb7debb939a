"""Images of OpenTelemetry's agents in Debian's registry: without a tenant, by tag and by signature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import injection
from oneagent.common.identifiers import DynaKubeName
from oneagent.csi_driver.store import store_key
from tests.fakes import images, registry, signing
from tests.fakes.images import Entry
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning
from tests.fakes.registry import Registry

pytestmark = pytest.mark.skipif(
    bool(registry.missing(registry.PROGRAM)), reason=registry.missing(registry.PROGRAM) or "it is there"
)

PATH = "team/otel"
SIGNER = signing.signer()
NAME = DynaKubeName("otelinj.shop")


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as found:
        yield found


def push(server: Registry, text: str, tag: str = "1") -> str:
    library = Entry(opentelemetry.PRELOAD_LIBRARY, b"\x7fELF" + text.encode() * 20, mode=0o755)
    jar = Entry("agent/java/opentelemetry-javaagent.jar", text.encode())
    return server.push(PATH, images.image(images.tar(library, jar)), tag)


def manifest(server: Registry, tag: str = "1", **image: Any) -> dict[str, Any]:
    obj = {
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": "shop", "annotations": {"feature.dynatrace.com/poll-interval": "1s"}},
        "spec": {"image": {"reference": f"{server.host}/{PATH}:{tag}", **image}},
    }
    return injection.normalize(obj)


def test_a_tag_is_followed(tmp_path: Path, plain: Registry, source: FakeDynaKubeSource) -> None:
    first = push(plain, "one")
    source.put(manifest(plain))
    with Provisioning(tmp_path / "data", source, f"--registry-plain-http={plain.host}") as p:
        p.wait_until(lambda: p.is_ready(store_key.of_image(first), NAME), what=lambda: p.condition(NAME))
        tree = Path(p.data.agent(store_key.of_image(first)))
        assert (tree / "agent/java/opentelemetry-javaagent.jar").read_text() == "one"
        second = push(plain, "two")
        p.wait_until(lambda: p.is_ready(store_key.of_image(second), NAME), what=lambda: p.condition(NAME))


def test_an_image_without_the_signature_is_not_used(
    tmp_path: Path, plain: Registry, source: FakeDynaKubeSource
) -> None:
    digest = push(plain, "one")
    source.put(manifest(plain, publicKeys=SIGNER.pem))
    with Provisioning(tmp_path / "data", source, f"--registry-plain-http={plain.host}") as p:
        p.wait_until(lambda: "sign" in p.condition(NAME), what=lambda: p.condition(NAME))
        assert not p.versions()
        signature = signing.beside(signing.simple(SIGNER, signing.payload(digest)))
        plain.push(PATH, signature, f"{signing.tag(digest)}.sig")
        source.put(manifest(plain, publicKeys=SIGNER.pem, pullPolicy="Always"))
        p.wait_until(lambda: p.is_ready(store_key.of_image(digest), NAME), what=lambda: p.condition(NAME))
