"""The Secret by which the operator hands a tenant's answers to nodes, so that no node asks the tenant.

One for each DynaKube with views, in its namespace and owned by it. Its one key holds a JSON document, as gzip in
base64: 5,000 nodes read it after a change, and a large tenant's configuration has some hundred kilobytes. The agents'
own token is in it, an API token never. Its digest is in the DynaKube's status, which nodes watch, so they read the
Secret once for each content.

Operator and node may be of different releases for a while: unknown fields are ignored, newer fields have a default.

    TenantSecretError   the document is invalid; the text names the field and shows no value
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from oneagent.common import foreign_json, typed_json
from oneagent.common.agents.oneagent.ruxitagentproc import Property
from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import DynaKubeName, TenantId
from oneagent.common.tenant import client
from oneagent.common.tenant.poll import TenantState

KEY: Final = "tenant.json.gz"
MAX_SECRET_BYTES: Final = 1 << 20
"""The API server's limit for the values of a Secret."""

_MAX_DOCUMENT_BYTES: Final = 8 << 20
_GZIP: Final = 16 + zlib.MAX_WBITS


class TenantSecretError(ValueError):
    """The Secret can't be used."""


def name(dynakube: DynaKubeName) -> str:
    """Return the Secret's name. The dot keeps it apart from Secrets that are named after a DynaKube."""
    return f"{dynakube}.tenant-config"


def serves(state: TenantState, dynakube: DynaKube) -> bool:
    """Return True if the answers are complete, and to the questions that this DynaKube has now."""
    return state.complete and state.questions == dynakube.tenant_questions


def encode(state: TenantState) -> bytes:
    """Encode complete answers; equal answers give equal documents."""
    return msgspec.json.encode(
        _Document(
            *state.questions,
            tenant=str(state.tenant),
            tenant_token=state.tenant_token,
            endpoints=list(state.endpoints),
            properties=[(prop.section, prop.key, prop.value) for prop in state.properties],
        )
    )


def digest(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()[:16]


def pack(document: bytes) -> str:
    """Return the text for `KEY`; `TenantSecretError` if no Secret has room for it."""
    packer = zlib.compressobj(wbits=_GZIP)
    text = base64.b64encode(packer.compress(document) + packer.flush()).decode()
    if len(text) > MAX_SECRET_BYTES:
        raise TenantSecretError(
            f"the tenant's configuration takes {len(text):,} bytes, a Secret has {MAX_SECRET_BYTES:,}"
        )
    return text


def unpack(data: Mapping[str, str]) -> bytes:
    """Return the document in a Secret's data."""
    if KEY not in data:
        raise TenantSecretError(f"nothing at the key {KEY}")
    try:
        unpacker = zlib.decompressobj(wbits=_GZIP)
        document = unpacker.decompress(base64.b64decode(data[KEY], validate=True), _MAX_DOCUMENT_BYTES)
    except (binascii.Error, ValueError, zlib.error):
        raise TenantSecretError(f"{KEY}: no gzip in base64") from None
    if not unpacker.eof:
        raise TenantSecretError(f"{KEY}: cut off, or larger than {_MAX_DOCUMENT_BYTES:,} bytes")
    return document


def decode(document: bytes) -> TenantState:
    """Return the answers, without the time of the poll."""
    try:
        answers = foreign_json.decode(document, _Document)
    except foreign_json.DocumentError as error:
        raise TenantSecretError(f"{KEY}: {error}") from None
    return TenantState(
        questions=(answers.api_url, answers.network_zone, answers.host_group),
        tenant=TenantId(answers.tenant),
        tenant_token=answers.tenant_token,
        endpoints=tuple(answers.endpoints),
        properties=tuple(Property(*prop) for prop in answers.properties),
        complete=True,
    )


_Text = Annotated[str, msgspec.Meta(max_length=client.MAX_TEXT)]
_Needed = Annotated[str, msgspec.Meta(min_length=1, max_length=client.MAX_TEXT)]


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    api_url: _Text
    network_zone: _Text
    host_group: _Text
    tenant: Annotated[str, msgspec.Meta(pattern=rf"\A{client.DIRECTORY_NAME.pattern}\Z")]
    tenant_token: _Needed
    endpoints: Annotated[list[_Needed], msgspec.Meta(min_length=1, max_length=client.MAX_ENDPOINTS)]
    properties: Annotated[list[tuple[str, str, str]], msgspec.Meta(max_length=client.MAX_PROPERTIES)] = []

    def __repr__(self) -> str:
        return f"_Document({self.tenant})"


typed_json.prepare(_Document)
