"""`injection.json`: what the operator puts into a namespace's Secret for the init containers of pods without CSI.

Operator and init container may be of different releases for a while: a field that is not known is no error, and one
that came later has a default.

    InjectionSecretError    what was read is no such document; the text names the field, and shows no value
"""

from __future__ import annotations

import msgspec


class InjectionSecretError(ValueError):
    """The document can't be used."""


class Injection(msgspec.Struct, frozen=True, rename="camel"):
    """One DynaKube's. No API token is ever in it; what agents themselves report with is."""

    dynakube: str
    tenant: str
    tenant_token: str
    endpoints: tuple[str, ...]
    """Where agents report to."""
    version: str
    package_url: str
    """Of the operator's package endpoint; empty if it has none."""
    package_ca: str = ""
    """PEM text of what verifies the endpoint's certificate."""
    technologies: tuple[str, ...] = ()
    network_zone: str = ""
    host_group: str = ""
    proxy: str = ""
    properties: tuple[tuple[str, str, str], ...] = ()
    """The tenant's settings for agents: section, key, value."""

    def __repr__(self) -> str:
        return f"Injection({self.dynakube}, {self.version})"


def encode(injection: Injection) -> str:
    """The same document gives the same text."""
    return msgspec.json.encode(injection).decode()


def decode(text: bytes) -> Injection:
    try:
        return msgspec.json.decode(text, type=Injection)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InjectionSecretError(str(error)) from None
