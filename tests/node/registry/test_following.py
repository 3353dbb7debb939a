"""The operator's resolution of a DynaKube's image, against Debian's registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from oneagent.common import dynakube
from oneagent.common.oci import reference
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import image_resolver
from oneagent.common.tenant.image_resolver import ImageState, MemorySignatures
from oneagent.common.tenant.inputs import Inputs, ObjectName
from tests.fakes import images as making
from tests.fakes import provisioner, registry
from tests.fakes.registry import Registry
from tests.fakes.signing import beside, payload, signer, simple, tag

pytestmark = pytest.mark.skipif(
    bool(registry.missing(registry.PROGRAM)), reason=registry.missing(registry.PROGRAM) or "it is there"
)

PATH = "team/agent"
OURS, THEIRS = signer(), signer()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as found:
        yield found


def push(server: Registry, text: str, tag: str = "1") -> str:
    return server.push(PATH, making.image(text.encode()), tag)


def sign(server: Registry, digest: str) -> None:
    server.push(PATH, beside(simple(OURS, payload(digest))), f"{tag(digest)}.sig")


def follow(
    server: Registry,
    before: ImageState | None = None,
    *,
    key: str = "",
    name: str = ":1",
    spec: Mapping[str, Any] | None = None,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    signatures: MemorySignatures | None = None,
    authority: str = "",
    policy: str = "",
) -> ImageState:
    annotations = {"code-modules-image-key": key} if key else {}
    kube = dynakube.from_object(
        provisioner.manifest(
            api_url="https://abc12345.live.dynatrace.com/api",
            image=f"{server.host}/{PATH}{name}",
            annotations=annotations,
            pull_policy=policy,
            **(spec or {}),
            **({"trustedCAs": "authorities"} if authority else {}),
        )
    )
    rules = Registries(plain_http=frozenset((server.host,) if server.url.startswith("http:") else ()))
    contents: dict[ObjectName, Mapping[str, str] | None] = {("Secret", "demo"): {"apiToken": "token"}}
    contents |= {("Secret", name): content for name, content in (secrets or {}).items()}
    contents["ConfigMap", "authorities"] = {"certs": authority}
    return image_resolver.resolve(
        kube,
        reference.parse(kube.package),
        Inputs(contents),
        before or ImageState(),
        rules,
        signatures or MemorySignatures(),
    )


def test_a_tag_is_followed_where_it_moves_to(plain: Registry) -> None:
    first = push(plain, "first")
    found = follow(plain)
    assert (str(found.image), found.problem) == (f"{plain.host}/{PATH}:1@{first}", "")
    second = push(plain, "second")
    found = follow(plain, found)
    assert str(found.image) == f"{plain.host}/{PATH}:1@{second}"


def test_a_tag_is_not_followed_if_it_is_pulled_only_once(plain: Registry) -> None:
    first = push(plain, "first")
    found = follow(plain, policy="IfNotPresent")
    push(plain, "second")
    assert follow(plain, found, policy="IfNotPresent") == found
    assert str(found.image) == f"{plain.host}/{PATH}:1@{first}"


def test_a_registry_is_never_asked_for_an_image_that_must_not_be_pulled(plain: Registry) -> None:
    digest = push(plain, "first")
    before = len(plain.requests())
    found = follow(plain, policy="Never")
    assert found.image is None
    assert found.problem == (
        f"{plain.host}/{PATH}:1: codeModulesImagePullPolicy is Never: add the image's digest, and preload it on the "
        "nodes"
    )
    found = follow(plain, name=f"@{digest}", policy="Never")
    assert (found.image and found.image.digest, found.problem) == (digest, "")
    assert len(plain.requests()) == before


def test_an_unreachable_registry_changes_nothing(plain: Registry) -> None:
    push(plain, "first")
    found = follow(plain)
    plain.__exit__(None, None, None)
    later = follow(plain, found)
    assert later.image == found.image
    assert "cannot connect" in later.problem


def test_another_name_is_another_image(plain: Registry) -> None:
    push(plain, "first")
    found = follow(plain, follow(plain), name=":2")
    assert found.image is None
    assert "manifests/2: answered 404" in found.problem


class TestASignedImage:
    def test_is_followed_and_its_signature_read_once(self, plain: Registry) -> None:
        digest = push(plain, "first")
        sign(plain, digest)
        signatures = MemorySignatures()
        found = follow(plain, key=OURS.pem, signatures=signatures)
        again = follow(plain, found, key=OURS.pem, signatures=signatures)
        assert found == again
        assert found.image is not None and found.image.digest == digest
        assert len([path for method, path, _ in plain.requests() if path.endswith(".sig") and method == "GET"]) == 1

    def test_stays_when_the_tag_moves_to_one_that_is_not(self, plain: Registry) -> None:
        first = push(plain, "first")
        sign(plain, first)
        found = follow(plain, key=OURS.pem)
        second = push(plain, "second")
        later = follow(plain, found, key=OURS.pem)
        assert later.image == found.image
        assert f"{second} is not signed" in later.problem
        sign(plain, second)
        assert follow(plain, later, key=OURS.pem).problem == ""

    def test_is_verified_again_with_another_key(self, plain: Registry) -> None:
        sign(plain, push(plain, "first"))
        keys = {"image-keys": {"cosign.pub": OURS.pem}}
        found = follow(plain, key="image-keys", secrets=keys)
        assert found.problem == ""
        keys = {"image-keys": {"cosign.pub": THEIRS.pem}}
        assert "by none of the keys" in follow(plain, found, key="image-keys", secrets=keys).problem

    def test_needs_the_keys(self, plain: Registry) -> None:
        sign(plain, push(plain, "first"))
        assert "the secret image-keys: does not exist" in follow(plain, key="image-keys").problem


def test_a_pull_secret_is_sent_and_required(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = authority.cert_pem.bytes().decode()
    with Registry(tmp_path / "locked", authority=authority, password=True) as locked:
        digest = push(locked, "first")
        spec = {"customPullSecret": "pull"}
        found = follow(locked, authority=pem, spec=spec, secrets={"pull": registry.pull_secret(locked.host)})
        assert found.image is not None and found.image.digest == digest
        missed = follow(locked, found, authority=pem, spec=spec)
        assert missed == dataclasses.replace(
            found, problem="the secret pull: has no key .dockerconfigjson: a pull secret is needed"
        )
