"""DynaKubes with signed images: installs, refusals, and their conditions and Events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.identifiers import StoreKey, Version
from oneagent.csi_driver.server import mount_policy
from oneagent.csi_driver.store import store_key
from tests.fakes import images, provisioner, registry
from tests.fakes import packages as agents
from tests.fakes import tenant as double
from tests.fakes.images import Entry
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning
from tests.fakes.registry import Registry
from tests.fakes.signing import Signer, beside, payload, signer, simple, tag

pytestmark = pytest.mark.skipif(
    bool(registry.missing(registry.PROGRAM)), reason=registry.missing(registry.PROGRAM) or "it is there"
)

PATH = "team/agent"
OURS, THEIRS = signer(), signer()


@pytest.fixture
def server() -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        yield server


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as found:
        yield found


@pytest.fixture
def kube(server: double.Tenant, plain: Registry) -> Callable[..., dict[str, Any]]:
    """Return a factory of DynaKubes, by default for the tag 1 and with our key."""

    def make(key: str = OURS.pem, name: str = "demo", image: str = ":1", decided: str = "") -> dict[str, Any]:
        annotations = {"poll-interval": "100ms", **({"code-modules-image-key": key} if key else {})}
        found = provisioner.manifest(name, server.api_url, image=f"{plain.host}/{PATH}{image}", annotations=annotations)
        if decided:
            found["status"] = {"codeModules": {"imageID": f"{plain.host}/{PATH}{image}@{decided}"}}
        return found

    return make


def version(digest: str) -> StoreKey:
    return store_key.of_image(digest)


def push(plain: Registry, text: str, *signers: Signer) -> str:
    """Push an image with an agent and these signatures; return its digest."""
    layer = images.tar(*images.agent(), Entry(f"{agents.NESTED}note", text.encode()))
    digest = plain.push(PATH, images.image(layer, architecture=images.HERE))
    sign(plain, digest, *signers)
    return digest


def sign(plain: Registry, digest: str, *signers: Signer) -> None:
    if signers:
        payloads = [simple(one, payload(digest)) for one in signers]
        plain.push(PATH, beside(*payloads), f"{tag(digest)}.sig")


def at_work(tmp_path: Path, source: FakeDynaKubeSource, plain: Registry) -> Provisioning:
    return Provisioning(tmp_path / "data", source, f"--registry-plain-http={plain.host}")


Kube = Callable[..., dict[str, Any]]


def last_good(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same DynaKube with the mount policy `last-good`."""
    found["metadata"]["annotations"]["feature.dynatrace.com/mount-policy"] = "last-good"
    return found


def instead(p: Provisioning) -> Version | None:
    """Return the version of pods while the desired one is missing."""
    found = mount_policy.fallback_version(p.row(), p.store, waited=False)
    return found.version if found else None


class TestASignedImage:
    @pytest.mark.parametrize("by", ["tag", "digest"])
    def test_is_installed(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube, by: str
    ) -> None:
        digest = push(plain, "one", OURS)
        source.put(kube(image=":1" if by == "tag" else f"@{digest}"))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)

    def test_is_installed_by_a_key_in_a_secret_with_several(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        source.secrets["image-keys"] = {"cosign.pub": THEIRS.pem + OURS.pem}
        digest = push(plain, "one", OURS)
        source.put(kube("image-keys"))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)

    def test_has_its_signature_read_once(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        digest = push(plain, "one", OURS)
        source.put(kube())
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)
            asked = len(resolved(plain))
            p.wait_until(lambda: len(resolved(plain)) > asked + 2)
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)
            asked = len(resolved(plain))
            p.wait_until(lambda: len(resolved(plain)) > asked + 2)
        assert len([path for _, path, _ in plain.requests() if path.endswith(".sig")]) == 2  # the push is one of them

    def test_stays_while_its_registry_and_the_api_server_are_unavailable(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        source.secrets["image-keys"] = {"cosign.pub": OURS.pem}
        digest = push(plain, "one", OURS)
        source.put(kube("image-keys"))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)
        plain.__exit__(None, None, None)
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: "cannot connect" in p.condition(), what=p.condition)
            assert served(p) == version(digest)
        source.unavailable = True
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: "the API server cannot be reached" in p.condition(), what=p.condition)
            assert served(p) == version(digest)


class TestAnImageThatIsNotSigned:
    def test_is_not_installed_until_it_is(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        digest = push(plain, "one")
        source.put(kube())
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: f"{digest} is not signed: " in p.condition(), what=p.condition)
            assert (p.store.versions(), list(p.data.tmp.iterdir()), served(p)) == ([], [], "")
            p.wait_until(lambda: source.states()[-1:] == ["refused"])
            assert source.reports[-1].dynakubes[0].message == p.condition()[:300]
            assert not [path for _, path, _ in plain.requests() if "/blobs/sha256" in path and "GET" in path]
            sign(plain, digest, OURS)
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)

    def test_with_the_right_key_is_not_installed_until_the_key_is_right(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        digest = push(plain, "one", THEIRS)
        source.put(kube())
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: "by none of the keys" in p.condition(), what=p.condition)
            source.put(kube(THEIRS.pem))
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)

    def test_is_not_used_because_another_dynakube_has_it(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        digest = push(plain, "one")
        source.put(kube("", name="careless"), kube(name="careful"))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest), "careless"), what=lambda: p.condition("careless"))
            p.wait_until(lambda: "is not signed" in p.condition("careful"), what=lambda: p.condition("careful"))
            assert served(p, "careful") == ""

    def test_is_not_used_any_more_once_a_signature_is_asked_for(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        digest = push(plain, "one")
        source.put(kube(""))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)
            source.put(kube())
            p.wait_until(lambda: "is not signed" in p.condition(), what=p.condition)
            assert served(p) == ""

    def test_is_not_the_last_good_one_any_more_either(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        digest = push(plain, "one")
        source.put(last_good(kube("")))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)
            source.put(last_good(kube()))
            p.wait_until(lambda: "is not signed" in p.condition(), what=p.condition)
            assert instead(p) is None

    @pytest.mark.parametrize("by", ["tag", "decision"])
    def test_is_not_followed_from_one_that_is(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube, by: str
    ) -> None:
        first = push(plain, "first", OURS)
        source.put(kube(decided=first if by == "decision" else ""))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(first)), what=p.condition)
            second = push(plain, "second")
            source.put(kube(decided=second if by == "decision" else ""))
            p.wait_until(lambda: f"{second} is not signed" in p.condition(), what=p.condition)
            assert served(p) == version(first)
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: f"{second} is not signed" in p.condition(), what=p.condition)
            assert (served(p), p.store.versions()) == (version(first), [version(first)])
            sign(plain, second, OURS)
            p.wait_until(lambda: p.is_ready(version(second)), what=p.condition)

    def test_is_not_followed_either_while_the_one_before_has_to_be_installed_again(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        first = push(plain, "first", OURS)
        source.put(kube())
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(first)), what=p.condition)
        p.store.remove(version(first))  # as a corrupt one
        push(plain, "second")
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.store.has(version(first)), what=p.condition)
            assert (served(p), p.store.versions()) == (version(first), [version(first)])


class TestAKey:
    def test_that_is_taken_back_leaves_no_last_good_version(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        source.secrets["image-keys"] = {"cosign.pub": OURS.pem}
        push(plain, "one", OURS)
        source.put(last_good(kube("image-keys")))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.condition() == "" and len(p.store.versions()) == 1, what=p.condition)
            source.secrets["image-keys"] = {"cosign.pub": THEIRS.pem}
            p.wait_until(lambda: "by none of the keys" in p.condition(), what=p.condition)
            assert instead(p) is None

    def test_that_is_taken_back_approves_nothing_any_more(
        self, tmp_path: Path, source: FakeDynaKubeSource, plain: Registry, kube: Kube
    ) -> None:
        source.secrets["image-keys"] = {"cosign.pub": OURS.pem}
        digest = push(plain, "one", OURS)
        source.put(kube("image-keys"))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)
            source.secrets["image-keys"] = {"cosign.pub": THEIRS.pem}
            p.wait_until(lambda: "by none of the keys" in p.condition(), what=p.condition)
            assert served(p) == ""
            sign(plain, digest, OURS, THEIRS)
            p.wait_until(lambda: p.is_ready(version(digest)), what=p.condition)

    @pytest.mark.parametrize(
        ("secret", "said"),
        [
            (None, "the secret image-keys: does not exist: create it with the public keys of images"),
            ({}, "the secret image-keys: has no key cosign.pub"),
            ({"cosign.pub": "ssh-ed25519 AAAA"}, "the secret image-keys: cosign.pub is not a list of public keys"),
            ({"cosign.pub": OURS.private_pem}, "the secret image-keys: cosign.pub has a private key in it"),
        ],
    )
    def test_that_does_not_exist_is_reported(
        self,
        tmp_path: Path,
        source: FakeDynaKubeSource,
        plain: Registry,
        kube: Kube,
        secret: dict[str, str] | None,
        said: str,
    ) -> None:
        push(plain, "one", OURS)
        if secret is not None:
            source.secrets["image-keys"] = secret
        source.put(kube("image-keys"))
        with at_work(tmp_path, source, plain) as p:
            p.wait_until(lambda: said in p.condition(), what=p.condition)
            assert p.store.versions() == []


class TestMemory:
    @pytest.mark.parametrize("wanted", [False, True])
    def test_has_cryptography_only_where_a_signature_was_asked_for(
        self, tmp_path: Path, plain: Registry, kube: Kube, wanted: bool
    ) -> None:
        digest = push(plain, "one", OURS)
        with provisioner.running(tmp_path, f"--registry-plain-http={plain.host}") as p:
            p.set_dynakubes(kube(OURS.pem if wanted else ""))
            p.await_ready(version(digest))
            assert p.process is not None
            mapped = Path(f"/proc/{p.process.pid}/maps").read_text()
            assert ("/cryptography/" in mapped) is wanted
            if wanted:  # what is on the disk needs no library
                p.stop()
                p.start()
                p.await_ready(version(digest))
                assert "/cryptography/" not in Path(f"/proc/{p.process.pid}/maps").read_text()


def served(p: Provisioning, name: str = "demo") -> str:
    row = p.row(name)
    return row.version if row else "no row"


def resolved(plain: Registry) -> list[str]:
    return [path for method, path, _ in plain.requests() if method == "HEAD" and path.endswith("/manifests/1")]
