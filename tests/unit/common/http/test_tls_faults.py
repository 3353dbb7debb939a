"""Each TLS fault is told with its own remedy, by real handshakes."""

from __future__ import annotations

import datetime

import pytest
import trustme

from oneagent.common.http import client, errors
from tests.fakes.proxy import Proxy
from tests.fakes.tls_port import serving

AUTHORITY = trustme.CA()
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)


def fault(port: int, authority: trustme.CA = AUTHORITY, proxy: str = "") -> str:
    """Return the message of a request that fails."""
    trusted = authority.cert_pem.bytes().decode()
    settings = client.HttpSettings(trusted_cas=trusted, timeout_seconds=10, proxy=proxy)
    with client.create(settings) as http, pytest.raises(errors.UnreachableError) as failed:
        http.fetch("GET", f"https://127.0.0.1:{port}/", max_bytes=1000)
    assert failed.value.stage is errors.Stage.TLS
    return str(failed.value)


@pytest.mark.parametrize("proxied", [False, True])
def test_an_unknown_issuer_is_helped_by_trusted_cas(proxied: bool) -> None:
    with serving(AUTHORITY.issue_cert("127.0.0.1")) as port, Proxy() as proxy:
        text = fault(port, trustme.CA(), f"http://{proxy.address}" if proxied else "")
    assert "is not trusted" in text
    assert "add its authority to trustedCAs" in text
    assert "clock" not in text


@pytest.mark.parametrize(
    ("begins", "ends", "reason"),
    [(NOW - 9 * DAY, NOW - DAY, "certificate has expired"), (NOW + DAY, NOW + 9 * DAY, "certificate is not yet valid")],
    ids=["over", "to come"],
)
def test_dates_are_helped_by_another_certificate_or_the_clock(
    begins: datetime.datetime, ends: datetime.datetime, reason: str
) -> None:
    with serving(AUTHORITY.issue_cert("127.0.0.1", not_before=begins, not_after=ends)) as port:
        text = fault(port)
    assert f"out of date ({reason}): renew it, or correct this node's clock, by which today is 2" in text
    assert "trustedCAs" not in text


@pytest.mark.parametrize("proxied", [False, True])
def test_another_name_is_helped_by_the_names_of_the_certificate(proxied: bool) -> None:
    with serving(AUTHORITY.issue_cert("tenant.example")) as port, Proxy() as proxy:
        text = fault(port, proxy=f"http://{proxy.address}" if proxied else "")
    assert "has other names (IP address mismatch, certificate is not valid for '127.0.0.1')" in text
    assert "trustedCAs" not in text


def test_a_port_without_tls_is_told() -> None:
    with serving(None) as port:
        assert "does the port answer without TLS?" in fault(port)


def test_a_server_that_requires_a_certificate_is_told() -> None:
    """It says so after the client's side of the handshake."""
    with serving(AUTHORITY.issue_cert("127.0.0.1"), requires_client=True) as port:
        assert "requires a client's certificate" in fault(port)
