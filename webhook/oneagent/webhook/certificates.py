"""The webhook's certificate, from a Secret that is watched or from a directory."""

from __future__ import annotations

import asyncio
import base64
import binascii
from pathlib import Path

import msgspec

from oneagent.common import typed_json
from oneagent.common.http.server_tls import Pair, ServerTls, UnusableCertificateError
from oneagent.common.kubernetes import errors, list_watch
from oneagent.common.kubernetes.watch import Client, Watch


class Secret(msgspec.Struct, frozen=True):
    """The part of a Secret of type `kubernetes.io/tls` that is used."""

    data: dict[str, str] | None = None


def from_secret(secret: Secret | None) -> Pair:
    """`UnusableCertificateError` if it is not there or holds no pair."""
    if secret is None:
        raise UnusableCertificateError("the Secret is not there")
    data = secret.data or {}
    try:
        return Pair(*(base64.b64decode(data[key], validate=True) for key in ("tls.crt", "tls.key")))
    except (KeyError, binascii.Error) as error:
        raise UnusableCertificateError("tls.crt or tls.key of the Secret is missing or no base64") from error


def from_directory(directory: Path) -> Pair:
    """The files `tls.crt` and `tls.key`; `UnusableCertificateError`."""
    try:
        return Pair((directory / "tls.crt").read_bytes(), (directory / "tls.key").read_bytes())
    except OSError as error:
        raise UnusableCertificateError(f"{error.filename}: {error.strerror}") from error


def watch(server: Client, namespace: str, name: str, tls: ServerTls) -> Watch[Secret]:
    """Running it takes every new pair of a Secret."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    secrets = list_watch.Collection(path, field_selector=f"metadata.name={name}")

    def changed(_: object) -> None:
        tls.load(lambda: from_secret(next(iter(watched.objects.values()), None)))

    watched = Watch(server, secrets, lambda content: errors.decode(content, Secret), changed)
    return watched


async def follow(directory: Path, tls: ServerTls, seconds: float) -> None:
    """Load every new pair in a directory, until cancelled."""
    while True:
        tls.load(lambda: from_directory(directory))
        await asyncio.sleep(seconds)


async def follow_client_authorities(file: Path, tls: ServerTls, seconds: float) -> None:
    """Load every new version of a file of clients' CA certificates, until cancelled."""

    def read() -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            raise UnusableCertificateError(f"{error.filename}: {error.strerror}") from error

    while True:
        tls.load_client_authorities(read)
        await asyncio.sleep(seconds)


typed_json.prepare(Secret)
