"""Explanations of TLS faults, each with its own remedy.

Only a certificate of an unknown issuer is helped by more trusted authorities: dates, names and the protocol have other
causes. The codes are those of OpenSSL's x509_vfy.h; the reasons those of its sslerr.h.
"""

from __future__ import annotations

import datetime
import ssl
from typing import Final

ADD_AUTHORITY: Final = "add its authority to trustedCAs"
"""The remedy for an unknown issuer. A client whose authorities come from elsewhere puts its own in place."""

_UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21, 27)
_DATES: Final = (9, 10, 13, 14)
_NAMES: Final = (62, 63, 64)

_PROTOCOL: Final = {
    "WRONG_VERSION_NUMBER": "does the port answer without TLS?",
    "HTTP_REQUEST": "does the port answer without TLS?",
    "UNSUPPORTED_PROTOCOL": "the server has to speak TLS 1.2 or newer",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server has to speak TLS 1.2 or newer",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "server and client have no cipher in common, or the server requires a certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server requires a client's certificate, which is not supported",
    "TLSV1_UNRECOGNIZED_NAME": "the server has no certificate for this name",
}


def explain(error: ssl.SSLError, now: float) -> str:
    """Return the fault and its remedy; `now` is this node's time, in seconds since the epoch."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error.verify_code, error.verify_message.rstrip("."), now)
    reason = error.reason or "protocol error"
    remedy = _PROTOCOL.get(reason, "")
    return f"no TLS connection ({reason}){f': {remedy}' if remedy else ''}"


def _explain_certificate(code: int, reason: str, now: float) -> str:
    if code in _UNKNOWN_ISSUER:
        return f"its certificate is not trusted ({reason}): {ADD_AUTHORITY}"
    if code in _DATES:
        # The day is enough to show a wrong clock, and a message that changes at each try would be a new Event.
        today = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
        return (
            f"its certificate, or that of its authority, is out of date ({reason}): renew it, or correct this node's"
            f" clock, by which today is {today}"
        )
    if code in _NAMES:
        return (
            f"its certificate has other names ({reason}): use one of the certificate's names, or have it issued for"
            " this one"
        )
    return f"its certificate is refused ({reason}): have another one issued"
