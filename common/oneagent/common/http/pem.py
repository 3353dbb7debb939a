"""Certificates in PEM text."""

from __future__ import annotations

import re
from typing import Final

_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----[ \t]*\r?\n[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII
)


def find_certificates(text: str) -> str:
    """Return the certificates alone; empty if there is none.

    A bundle of a distribution has comments between them, in any language: they have no effect.
    """
    return "".join(f"{block}\n" for block in _CERTIFICATE.findall(text))
