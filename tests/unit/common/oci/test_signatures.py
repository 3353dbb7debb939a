"""Signatures that cosign itself has made (version 2.6.5, with keys), and what is made of them when they are changed.

The cases in `cosign/` are what it has put into a registry: paths below a repository, and what lies there.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from oneagent.common import unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.oci import cosign_payload, hosts, public_keys, reference, signature_keys, signatures
from oneagent.common.oci import image as oci_image
from oneagent.common.oci.public_keys import PublicKey
from tests.fakes import signing

CASES = Path(__file__).with_name("cosign")
GOOD = ("p256-beside", "p256-bundle", "p384-beside", "p384-bundle", "rsa-beside", "rsa-bundle")


def case(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text())
    return found


class Shelf:
    """A registry that only gives out what it was given; everything else is not there."""

    def __init__(self) -> None:
        self.answers: Mapping[str, str] = {}
        self.referrers_status = 404
        """Answer to a request for a list of referrers that is not there."""
        shelf = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.removeprefix("/v2/mirrored/agent/").partition("?")[0]
                body = shelf.answers.get(path, "").encode()
                self.send_response(200 if body else shelf.referrers_status if "referrers/" in path else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"localhost:{self.server.server_port}"

    def find(self, given: Mapping[str, Any], key: str = "") -> PublicKey:
        self.answers = given["answers"]
        rules = hosts.Registries(plain_http=frozenset((self.host,)))
        image = reference.parse(f"{self.host}/mirrored/agent@{given['digest']}")
        return signatures.find_signer(image, oci_image.Access(rules=rules), public_keys.parse(key or given["key"]))


@contextlib.contextmanager
def serving_shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    threading.Thread(target=shelf.server.serve_forever, args=(0.02,), daemon=True).start()
    yield shelf
    shelf.server.shutdown()
    shelf.server.server_close()


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    with serving_shelf() as shelf:
        yield shelf


class TestCosign:
    @pytest.mark.parametrize("name", GOOD)
    def test_has_its_signatures_found_good_wherever_the_image_was_mirrored_to(self, shelf: Shelf, name: str) -> None:
        given = case(name)
        assert shelf.find(given) == public_keys.parse(given["key"])[0]

    @pytest.mark.parametrize("name", GOOD)
    def test_has_them_found_bad_with_another_key(self, shelf: Shelf, name: str) -> None:
        with pytest.raises(unpack.UnsignedImageError, match="by none of the keys"):
            shelf.find(case(name), signing.signer().pem)

    def test_has_an_attestation_not_taken_for_a_signature(self, shelf: Shelf) -> None:
        with pytest.raises(
            unpack.UnsignedImageError, match=r"states 'https://cosign\.sigstore\.dev/attestation/v1' and not"
        ):
            shelf.find(case("attested"))

    def test_has_its_prehashed_ed25519_refused(self, shelf: Shelf) -> None:
        """As `cosign verify` does itself."""
        with pytest.raises(unpack.UnsignedImageError, match="by none of the keys"):
            shelf.find(case("ed25519ph-beside"))

    def test_has_its_bundles_found_in_a_registry_s_own_list(self, shelf: Shelf) -> None:
        given = case("p256-bundle")
        tag = f"manifests/{signing.tag(given['digest'])}"
        listed = json.loads(given["answers"].pop(tag))
        for entry in listed["manifests"]:
            entry["artifactType"] = cosign_payload.BUNDLE
        given["answers"][f"referrers/{given['digest']}"] = json.dumps(listed)
        assert shelf.find(given) == public_keys.parse(given["key"])[0]

    @pytest.mark.parametrize("status", [400, 403, 405, 500, 501])
    def test_has_its_bundles_found_by_tag_where_a_registry_refuses_to_list_referrers(self, status: int) -> None:
        with serving_shelf() as shelf:
            shelf.referrers_status = status
            given = case("p256-bundle")
            assert shelf.find(given) == public_keys.parse(given["key"])[0]
            with pytest.raises(errors.HttpStatusError, match=f"answered {status}"):
                shelf.find({**given, "answers": {}})

    def test_has_one_image_s_signature_not_taken_for_another_s(self, shelf: Shelf) -> None:
        given = case("p256-beside")
        other = f"sha256:{'0' * 64}"
        (tag,) = (path for path in given["answers"] if path.endswith(".sig"))
        given["answers"][f"manifests/{signing.tag(other)}.sig"] = given["answers"].pop(tag)
        with pytest.raises(unpack.UnsignedImageError, match=f"is of another image \\({given['digest']}\\)"):
            shelf.find({**given, "digest": other})

    def test_has_its_signature_found_beside_one_that_can_not_even_be_asked_for(self, shelf: Shelf) -> None:
        given = case("p256-beside")
        (tag,) = (path for path in given["answers"] if path.endswith(".sig"))
        stored = json.loads(given["answers"][tag])
        stored["layers"].insert(0, {**stored["layers"][0], "digest": "sha256:\n"})
        given["answers"][tag] = json.dumps(stored)
        assert shelf.find(given) == public_keys.parse(given["key"])[0]

    @pytest.mark.parametrize("body", ["[]", '{"layers": 1}', '{"manifests": {}}', "\x00"])
    def test_is_not_guessed_at_where_a_registry_sends_something_else(self, shelf: Shelf, body: str) -> None:
        given = case("p256-beside")
        (tag,) = (path for path in given["answers"] if path.endswith(".sig"))
        given["answers"] = {tag: body, tag.removesuffix(".sig"): body}
        with pytest.raises((unpack.UnsignedImageError, errors.UnexpectedResponseError)):
            shelf.find(given)


class TestAStatement:
    """Whoever has the key may sign other documents with it: each part of a statement says what it is."""

    def statement(self, **fields: object) -> bytes:
        return json.dumps({**json.loads(signing.statement(f"sha256:{'1' * 64}")), **fields}).encode()

    def test_names_what_is_signed(self) -> None:
        claim = cosign_payload.parse_bundle(signing.bundle(signing.signer(), self.statement()))
        assert claim.read_digests() == {f"sha256:{'1' * 64}"}

    @pytest.mark.parametrize(
        "fields",
        [
            {"_type": "https://in-toto.io/Statement/v0.1"},
            {"_type": ""},
            {"predicateType": "https://slsa.dev/provenance/v1"},
        ],
        ids=str,
    )
    def test_of_another_kind_is_no_signature(self, fields: dict[str, object]) -> None:
        claim = cosign_payload.parse_bundle(signing.bundle(signing.signer(), self.statement(**fields)))
        with pytest.raises(cosign_payload.NotASignatureError):
            claim.read_digests()


def blob(name: str) -> bytes:
    """What was signed, in a case with one signature."""
    (found,) = (body for path, body in case(name)["answers"].items() if path.startswith("blobs/"))
    return str(found).encode()


def mark(name: str) -> str:
    (manifest,) = (body for path, body in case(name)["answers"].items() if path.endswith(".sig"))
    return str(json.loads(manifest)["layers"][0]["annotations"][cosign_payload.SIGNATURE])


class TestAChangedByte:
    @pytest.mark.parametrize("name", ["p256-beside", "p384-beside", "rsa-beside"])
    @given(data=st.data())
    @settings(deadline=None, max_examples=50)
    def test_of_a_payload_is_seen(self, name: str, data: st.DataObject) -> None:
        payload, key = changed(blob(name), data), public_keys.parse(case(name)["key"])
        claim = cosign_payload.parse_simple(payload, mark(name))
        assert signature_keys.find_signer(key, claim.message, claim.signature) is None

    @pytest.mark.parametrize("name", ["p384-bundle", "rsa-bundle"])
    @given(data=st.data())
    @settings(deadline=None, max_examples=50)
    def test_of_a_bundle_is_seen_or_is_of_no_importance(self, name: str, data: st.DataObject) -> None:
        before = cosign_payload.parse_bundle(blob(name))
        try:
            after = cosign_payload.parse_bundle(changed(blob(name), data))
        except cosign_payload.NotASignatureError:
            return
        key = public_keys.parse(case(name)["key"])
        if signature_keys.find_signer(key, after.message, after.signature):
            assert (after.message, after.read_digests()) == (before.message, frozenset((case(name)["digest"],)))


def changed(body: bytes, data: st.DataObject) -> bytes:
    place = data.draw(st.integers(0, len(body) - 1))
    other = data.draw(st.integers(1, 255))
    return body[:place] + bytes((body[place] ^ other,)) + body[place + 1 :]


def public(key: Any) -> PublicKey:
    return PublicKey(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


class TestAKey:
    @pytest.mark.parametrize(
        ("key", "said"),
        [
            (public(ec.generate_private_key(ec.SECP521R1())), "public key 2 of 2 is of an unsupported kind"),
            (public(ec.generate_private_key(ec.SECP256K1())), "is of an unsupported kind"),
            (public(rsa.generate_private_key(65537, 1024)), "RSA from 2,048 bits is needed"),
            (public(x25519.X25519PrivateKey.generate()), "is of an unsupported kind"),
            (PublicKey(b"0\x03\x02\x01\x05"), "public key 2 of 2 cannot be read"),
            (PublicKey(b""), "public key 2 of 2 cannot be read"),
        ],
    )
    def test_that_cannot_be_used_is_said(self, key: PublicKey, said: str) -> None:
        good = public(ec.generate_private_key(ec.SECP256R1()))
        with pytest.raises(http_client.InvalidSettingsError, match=said):
            signature_keys.check_usable((good, key))

    def test_is_read_from_pem_in_any_layout(self) -> None:
        one, two = signing.signer().pem, signing.signer().pem
        found = public_keys.parse(one + two)
        assert len({key.fingerprint for key in found}) == 2
        for text in (f"  {one}\n\n{two}", (one + two).replace("\n", " "), (one + two).replace("\n", "\r\n")):
            assert public_keys.parse(text) == found
        assert public_keys.parse(one + one) == found[:1]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is not a list of public keys"),
            ("ssh-ed25519 AAAA", "is not a list of public keys"),
            ("-----BEGIN PUBLIC KEY-----", "is not a list of public keys"),
            ("-----BEGIN PUBLIC KEY-----AAA-----END PUBLIC KEY-----", "is not in base64"),
            ("{good} # ours", "is not a list of public keys"),
            ("{good}" + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "has a block CERTIFICATE"),
            ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nc2VjcmV0\n", "has a private key in it"),
            ("{good}" * 17, "has 17 public keys: 16 at most"),
            ("{good}" * 1000, "has more than 64 KiB"),
        ],
    )
    def test_that_is_none_is_refused_without_showing_it(self, text: str, said: str) -> None:
        with pytest.raises(public_keys.InvalidPublicKeysError) as caught:
            public_keys.parse(text.replace("{good}", signing.signer().pem))
        assert said in str(caught.value)
        assert "c2VjcmV0" not in str(caught.value)

    @given(st.text())
    @settings(deadline=None)
    def test_is_read_or_refused_whatever_is_given(self, text: str) -> None:
        try:
            assert public_keys.parse(text)
        except public_keys.InvalidPublicKeysError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(
    "modules",
    [
        "oneagent.csi_driver.provisioner.main, oneagent.csi_driver.dynakube_sources.api_server",
        "oneagent.common.dynakube",
    ],
)
def test_who_has_no_signatures_to_verify_has_no_cryptography_in_memory(modules: str) -> None:
    program = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "cryptography" not in loaded.stdout.split()
