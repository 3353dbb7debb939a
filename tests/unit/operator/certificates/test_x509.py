"""Keys and certificates: strict verifiers take what is made, and garbage is only garbage."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from oneagent.operator.certificates import settings
from oneagent.operator.certificates import x509 as certificates_x509
from tests.fakes import certificates as fakes

DAY = 86400.0
NOW = float(int(time.time()))
HOSTS = ("oneagent-webhook.dynatrace", "oneagent-webhook.dynatrace.svc", "oneagent-webhook.dynatrace.svc.cluster.local")
AUTHORITY = certificates_x509.new_authority(NOW, 365 * DAY, 600)
OTHER = certificates_x509.new_authority(NOW, 365 * DAY, 600)
SERVER = certificates_x509.issue(AUTHORITY, HOSTS, NOW, 7 * DAY, 600)


@pytest.mark.parametrize("host", HOSTS)
def test_a_strict_tls_client_takes_the_certificate_under_each_of_its_names(tmp_path: Path, host: str) -> None:
    assert handshake(tmp_path, SERVER, certificates_x509.bundle([AUTHORITY.certificate]), host) == ""


def test_old_and_new_authority_are_trusted_side_by_side_in_any_order(tmp_path: Path) -> None:
    for bundle in ([AUTHORITY.certificate, OTHER.certificate], [OTHER.certificate, AUTHORITY.certificate]):
        assert handshake(tmp_path, SERVER, certificates_x509.bundle(bundle), HOSTS[1]) == ""
        assert fakes.verifies(SERVER.certificate, certificates_x509.bundle(bundle), HOSTS[1], NOW)


def test_no_client_takes_the_certificate_by_another_authority_or_under_another_name(tmp_path: Path) -> None:
    assert "unable to get local issuer" in handshake(tmp_path, SERVER, OTHER.certificate.pem, HOSTS[1])
    assert "Hostname mismatch" in handshake(tmp_path, SERVER, AUTHORITY.certificate.pem, "other.dynatrace.svc")


def test_a_clock_ten_minutes_behind_or_ahead_of_the_end_is_no_harm() -> None:
    for now in (NOW - 600, NOW, NOW + 7 * DAY - 1):
        assert fakes.verifies(SERVER.certificate, AUTHORITY.certificate.pem, HOSTS[1], now)
    for now in (NOW - 601, NOW + 7 * DAY + 1):
        assert not fakes.verifies(SERVER.certificate, AUTHORITY.certificate.pem, HOSTS[1], now)


def test_a_certificate_does_not_outlive_its_issuer() -> None:
    server = certificates_x509.issue(AUTHORITY, HOSTS, NOW + 364 * DAY, 7 * DAY, 600)
    assert server.certificate.not_after == AUTHORITY.certificate.not_after


def test_keys_are_of_the_curve_p256_and_none_is_used_twice() -> None:
    pairs = [AUTHORITY, OTHER, SERVER, certificates_x509.issue(AUTHORITY, HOSTS, NOW, DAY, 0)]
    assert all(isinstance(pair.key.curve, ec.SECP256R1) for pair in pairs)
    assert len({pair.key_pem for pair in pairs}) == len(pairs)
    assert len({pair.certificate.x509.serial_number for pair in pairs}) == len(pairs)


def test_every_authority_has_a_name_of_its_own() -> None:
    assert AUTHORITY.certificate.x509.subject != OTHER.certificate.x509.subject


def test_a_long_service_name_fits_into_a_certificate() -> None:
    hosts = (f"{'s' * 63}.{'n' * 63}", f"{'s' * 63}.{'n' * 63}.svc")
    long = certificates_x509.issue(AUTHORITY, hosts, NOW, DAY, 600)
    assert fakes.verifies(long.certificate, AUTHORITY.certificate.pem, hosts[1], NOW)


def test_what_was_made_is_read_again() -> None:
    assert certificates_x509.read_pair(SERVER.certificate.pem, SERVER.key_pem).certificate == SERVER.certificate
    assert (
        certificates_x509.read_authority(AUTHORITY.certificate.pem, AUTHORITY.key_pem).certificate
        == AUTHORITY.certificate
    )
    assert SERVER.certificate.signed_by(AUTHORITY.certificate)
    assert not SERVER.certificate.signed_by(OTHER.certificate)


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        (AUTHORITY.certificate.pem, OTHER.key_pem, "the key does not match the certificate"),
        (SERVER.certificate.pem, SERVER.key_pem, "the certificate is not a CA certificate"),
        (b"", AUTHORITY.key_pem, "cannot parse the certificate: ValueError"),
        (AUTHORITY.certificate.pem, b"", "cannot parse the key: ValueError"),
        (AUTHORITY.certificate.pem, SERVER.key_pem[:90], "cannot parse the key: ValueError"),
    ],
    ids=("another key", "no authority", "no certificate", "no key", "half a key"),
)
def test_an_authority_that_cannot_sign_is_refused_with_the_reason(certificate: bytes, key: bytes, why: str) -> None:
    with pytest.raises(certificates_x509.UnusableError) as refused:
        certificates_x509.read_authority(certificate, key)
    assert str(refused.value) == why


def test_a_bundle_gives_each_authority_once_and_passes_over_the_rest() -> None:
    pem = b"".join(
        [
            b"# a remark\n",
            AUTHORITY.certificate.pem,
            SERVER.certificate.pem,
            b"-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n",
            OTHER.certificate.pem,
            AUTHORITY.certificate.pem,
            AUTHORITY.key_pem,
        ]
    )
    assert certificates_x509.read_bundle(pem) == (AUTHORITY.certificate, OTHER.certificate)


@given(st.binary(max_size=300))
def test_garbage_is_unusable_and_nothing_else(garbage: bytes) -> None:
    assert certificates_x509.read_bundle(garbage) == ()
    for certificate, key in ((garbage, SERVER.key_pem), (SERVER.certificate.pem, garbage), (garbage, garbage)):
        with pytest.raises(certificates_x509.UnusableError):
            certificates_x509.read_pair(certificate, key)


@given(st.data())
def test_a_damaged_certificate_is_unusable_or_reads_as_another(data: st.DataObject) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(SERVER.certificate.pem.decode()))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(certificates_x509.UnusableError):
        read = certificates_x509.read_certificate(ssl.DER_cert_to_PEM_cert(bytes(der)).encode())
        assert read == SERVER.certificate or not read.signed_by(AUTHORITY.certificate)


def test_a_key_never_shows_in_a_text() -> None:
    secret = AUTHORITY.key.private_numbers().private_value
    assert str(secret) not in repr(AUTHORITY)
    assert AUTHORITY.key_pem.decode().splitlines()[1] not in repr(AUTHORITY)


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"server_seconds": 0.0}, "server_seconds is 0: must be greater than 0"),
        ({"authority_seconds": 20 * DAY}, "authority_seconds is 1728000: it must be at least three times"),
        ({"threshold_seconds": 4 * DAY}, "threshold_seconds is 345600: it must be at most half"),
        ({"grace_seconds": -1.0}, "grace_seconds is -1: must be greater than 0"),
    ],
)
def test_times_that_contradict_each_other_are_refused(times: dict[str, float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        settings.CertificateSettings(namespace="dynatrace", **times)  # type: ignore[arg-type]


def test_unusual_times_are_refused_with_the_range() -> None:
    settings.check_ranges(settings.CertificateSettings(namespace="dynatrace"))
    short = settings.CertificateSettings(namespace="dynatrace", server_seconds=60, threshold_seconds=10)
    with pytest.raises(ValueError, match="server_seconds is 60: it must be between 7200 and 34300800 seconds"):
        settings.check_ranges(short)


def handshake(folder: Path, pair: certificates_x509.Pair, bundle: bytes, host: str) -> str:
    """Why a client as strict as can be does not take a server; '' if it does."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(pair.certificate.pem)
    key.write_bytes(pair.key_pem)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cadata=bundle.decode())
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    return asyncio.run(_handshake(server, trusting, host))


async def _handshake(server: ssl.SSLContext, trusting: ssl.SSLContext, host: str) -> str:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(end, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        writer.close()
        await writer.wait_closed()
        return ""


def test_the_extensions_that_strict_verifiers_ask_for_are_there() -> None:
    for pair, signs in ((AUTHORITY, True), (SERVER, False)):
        extensions = pair.certificate.x509.extensions
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value.key_cert_sign is signs
        own = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert own == x509.SubjectKeyIdentifier.from_public_key(pair.key.public_key())
        identifier = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        issuer = AUTHORITY.certificate.x509.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert identifier == issuer.digest
