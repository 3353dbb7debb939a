"""`injection.json`: settings in a namespace's Secret, for init containers of pods without CSI.

Operator and init container may be of different releases for a while: unknown fields are ignored, and newer fields
have a default.

    InjectionSecretError    the document is invalid; the text names the field and shows no value
"""

from __future__ import annotations

import msgspec

from oneagent.common import foreign_json, typed_json


class InjectionSecretError(ValueError):
    """The document can't be used."""


class Injection(msgspec.Struct, frozen=True, rename="camel"):
    """Settings of one DynaKube: the agents' own token is in it, an API token never."""

    dynakube: str
    tenant: str
    tenant_token: str
    endpoints: tuple[str, ...]
    """Communication endpoints of the tenant."""
    version: str
    package_url: str
    """URL of the operator's package server; empty without one."""
    package_ca: str = ""
    """CA certificates of the package server, PEM."""
    technologies: tuple[str, ...] = ()
    network_zone: str = ""
    host_group: str = ""
    proxy: str = ""
    properties: tuple[tuple[str, str, str], ...] = ()
    """The tenant's settings for agents: section, key, value."""

    def __repr__(self) -> str:
        return f"Injection({self.dynakube}, {self.version})"


def encode(injection: Injection) -> str:
    """Encode a document; equal documents give equal text."""
    return msgspec.json.encode(injection).decode()


def decode(text: bytes) -> Injection:
    try:
        return foreign_json.decode(text, Injection)
    except foreign_json.DocumentError as error:
        raise InjectionSecretError(str(error)) from None


typed_json.prepare(Injection)
