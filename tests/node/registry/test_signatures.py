"""Each kind of valid and of invalid image signature, in Debian's registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from oneagent.common import unpack
from oneagent.common.http import errors
from oneagent.common.oci import hosts, public_keys, reference, signatures
from oneagent.common.oci import image as oci_image
from tests.fakes import images as making
from tests.fakes import registry
from tests.fakes.registry import Registry
from tests.fakes.signing import Signer, beside, bundle, payload, referring, signer, simple, statement, tag, text

pytestmark = pytest.mark.skipif(
    bool(registry.missing(registry.PROGRAM)), reason=registry.missing(registry.PROGRAM) or "it is there"
)

OURS, THEIRS = signer(), signer()
OTHER = f"sha256:{'5' * 64}"
KINDS = {
    "P-256": OURS,
    "P-384": Signer(ec.generate_private_key(ec.SECP384R1())),
    "P-384 with SHA-384": Signer(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    "RSA": Signer(rsa.generate_private_key(65537, 2048)),
    "Ed25519": Signer(ed25519.Ed25519PrivateKey.generate()),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry") / "here") as found:
        yield found


class Case:
    """An image in a repository of its own."""

    def __init__(self, server: Registry, path: str) -> None:
        self._server, self._path = server, path
        self.digest = server.push(path, making.image(making.tar(making.Entry(path))))

    def put(self, tag: str, image: making.Image) -> None:
        self._server.push(self._path, image, tag)

    def sign(self, *payloads: tuple[bytes, str]) -> None:
        self.put(f"{tag(self.digest)}.sig", beside(*payloads))

    def refer(self, *bundles: bytes) -> None:
        self.put(tag(self.digest), referring(*bundles))

    def find(self, *keys: Signer, mirror: str = "") -> public_keys.PublicKey:
        image = reference.parse(f"{self._server.host}/{self._path}@{self.digest}")
        mirrors = {self._server.host: (mirror,)} if mirror else {}
        rules = hosts.Registries(mirrors, plain_http=frozenset((self._server.host, mirror.partition("/")[0])))
        wanted = public_keys.parse("".join(key.pem for key in keys or (OURS,)))
        return signatures.find_signer(image, oci_image.Access(rules=rules), wanted)


@pytest.fixture
def case(server: Registry, request: pytest.FixtureRequest) -> Case:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower()).strip("-")
    return Case(server, "-".join(filter(None, name.split("-"))))


class TestASignature:
    @pytest.mark.parametrize("kind", KINDS)
    def test_beside_the_image_is_good_with_each_kind_of_key(self, case: Case, kind: str) -> None:
        case.sign(simple(KINDS[kind], payload(case.digest)))
        assert case.find(KINDS[kind]).fingerprint == public_keys.parse(KINDS[kind].pem)[0].fingerprint

    @pytest.mark.parametrize("kind", KINDS)
    def test_that_refers_to_the_image_is_good_with_each_kind_of_key(self, case: Case, kind: str) -> None:
        case.refer(bundle(KINDS[kind], statement(case.digest)))
        assert case.find(KINDS[kind]).fingerprint == public_keys.parse(KINDS[kind].pem)[0].fingerprint

    def test_by_any_of_several_keys_is_good(self, case: Case) -> None:
        case.sign(simple(OURS, payload(case.digest)))
        assert case.find(THEIRS, KINDS["RSA"], OURS).fingerprint == public_keys.parse(OURS.pem)[0].fingerprint

    def test_is_found_among_others(self, case: Case) -> None:
        case.sign(simple(THEIRS, payload(case.digest)), (b"{", "!"), simple(OURS, payload(case.digest)))
        assert case.find() == public_keys.parse(OURS.pem)[0]

    def test_that_refers_to_the_image_counts_if_the_one_beside_it_is_bad(self, case: Case) -> None:
        case.sign(simple(THEIRS, payload(case.digest)))
        case.refer(bundle(OURS, statement(case.digest, predicate="https://spdx.dev/Document")), b"[]")
        with pytest.raises(unpack.UnsignedImageError):
            case.find()
        case.refer(b"[]", bundle(OURS, statement(OTHER, case.digest)))
        assert case.find() == public_keys.parse(OURS.pem)[0]

    def test_of_an_index_is_that_of_the_image_s_name(self, server: Registry) -> None:
        path = "for/several/machines"
        parts = [(f"linux/{machine}", making.image(machine.encode())) for machine in ("amd64", "arm64")]
        case = Case(server, path)
        case.digest = server.push(path, making.index(*parts))
        case.sign(simple(OURS, payload(case.digest)))
        assert case.find() == public_keys.parse(OURS.pem)[0]
        case.digest = parts[0][1].digest
        with pytest.raises(unpack.UnsignedImageError, match="is not signed: it has neither"):
            case.find()


BAD = {
    "none": ("is not signed: it has neither a tag {tag}.sig nor a bundle that refers to it", lambda case: None),
    "no payload": ("neither a tag", lambda case: case.sign()),
    "another key": (
        "its signature is by none of the keys",
        lambda case: case.sign(simple(THEIRS, payload(case.digest))),
    ),
    "another image": (f"is of another image ({OTHER})", lambda case: case.sign(simple(OURS, payload(OTHER)))),
    "another message": (
        "by none of the keys",
        lambda case: case.sign((payload(case.digest), simple(OURS, payload(OTHER))[1])),
    ),
    "another kind of payload": (
        "is of the type 'atomic container signature'",
        lambda case: case.sign(simple(OURS, payload(case.digest, "atomic container signature"))),
    ),
    "no JSON": ("has a payload that is not as documented", lambda case: case.sign(simple(OURS, b"signed"))),
    "no digest": (
        "has a payload that is not as documented",
        lambda case: case.sign(simple(OURS, b'{"critical": {"type": "cosign container image signature"}}')),
    ),
    "no base64": ("a signature that is not in base64", lambda case: case.sign((payload(case.digest), "?"))),
    "no signature": ("neither a tag", lambda case: case.sign((payload(case.digest), ""))),
    "cut short": (
        "by none of the keys",
        lambda case: case.sign((payload(case.digest), text(OURS.sign(payload(case.digest))[:40]))),
    ),
    "a hash that is too short": (
        "by none of the keys",
        lambda case: case.sign(simple(Signer(OURS.key, hashes.SHA224()), payload(case.digest))),
    ),
    "a bundle by another key": (
        "by none of the keys",
        lambda case: case.refer(bundle(THEIRS, statement(case.digest))),
    ),
    "a bundle of another image": (
        f"is of another image ({OTHER})",
        lambda case: case.refer(bundle(OURS, statement(OTHER))),
    ),
    "a bundle about something else": (
        "states 'https://slsa.dev/provenance/v1' and not",
        lambda case: case.refer(bundle(OURS, statement(case.digest, predicate="https://slsa.dev/provenance/v1"))),
    ),
    "a bundle of another type": (
        "has a statement of the type 'text/plain'",
        lambda case: case.refer(bundle(OURS, statement(case.digest), "text/plain")),
    ),
    "a bundle of another version": (
        "is a bundle 'application/vnd.dev.sigstore.bundle.v0.9+json'",
        lambda case: case.refer(
            bundle(OURS, statement(case.digest), mediaType="application/vnd.dev.sigstore.bundle.v0.9+json")
        ),
    ),
    "a bundle without a statement": (
        "is a bundle without a statement",
        lambda case: case.refer(bundle(OURS, statement(case.digest), dsseEnvelope=None, messageSignature={})),
    ),
    "a bundle with two signatures": ("is a bundle with 2 signatures", lambda case: case.refer(twice(case.digest))),
    "a bundle that is none": ("has a bundle that is not as documented", lambda case: case.refer(b"\xff")),
}


def twice(digest: str) -> bytes:
    document = json.loads(bundle(OURS, statement(digest)))
    document["dsseEnvelope"]["signatures"] *= 2
    return json.dumps(document).encode()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_signature_is_refused_in_one_line(case: Case, name: str) -> None:
    said, put = BAD[name]
    put(case)
    with pytest.raises(unpack.UnsignedImageError) as caught:
        case.find()
    line = str(caught.value)
    assert said.format(tag=tag(case.digest)) in line
    assert case.digest in line and line.isprintable() and len(line) < 600


class TestARegistry:
    def test_that_has_lost_a_payload_cannot_tell(self, server: Registry, case: Case) -> None:
        signed = simple(OURS, payload(case.digest))
        case.sign(signed)
        server.delete_blob(making.digest(signed[0]))
        with pytest.raises(errors.HttpStatusError, match="answered 404"):
            case.find()

    def test_with_a_changed_payload_cannot_tell(self, server: Registry, case: Case) -> None:
        signed = simple(OURS, payload(case.digest))
        case.sign(signed)
        server.corrupt_blob(making.digest(signed[0]))
        with pytest.raises(errors.HttpError):
            case.find()

    def test_is_used_if_its_mirror_has_no_valid_signature(self, server: Registry, case: Case, tmp_path: Path) -> None:
        case.sign(simple(OURS, payload(case.digest)))
        with Registry(tmp_path / "mirror") as mirror:
            case.find(mirror=f"{mirror.host}/copies")
            assert [path for _, path, _ in mirror.requests() if path.startswith("/v2/copies/")]

    def test_is_not_used_if_its_mirror_has_a_valid_one(self, server: Registry, case: Case, tmp_path: Path) -> None:
        with Registry(tmp_path / "mirror") as mirror:
            name = f"copies/{case._path}"
            mirror.push(name, beside(simple(OURS, payload(case.digest))), f"{tag(case.digest)}.sig")
            before = len(server.requests())
            case.find(mirror=f"{mirror.host}/copies")
            assert len(server.requests()) == before

    def test_sends_a_bounded_number_of_signatures(self, server: Registry, case: Case) -> None:
        case.sign(*(simple(THEIRS, payload(case.digest) + b" " * number) for number in range(50)))
        before = len(server.requests())
        with pytest.raises(unpack.UnsignedImageError):
            case.find()
        assert len(server.requests()) - before < 40
