"""Answers of tenants, registries and mirrors that nobody should send, read by the real client over a real socket.

An answer begins as a right one. Then its status, its headers, the framing of its body and the document in it are
altered. Whatever it is, the reader returns or raises an error of its own.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import random
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from oneagent.common import unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.oci import auth, hosts, manifest, pull_secret, repository
from oneagent.common.tenant import client
from tests.fakes import hostile_documents
from tests.fakes.raw_server import RawServer

_DIGEST: Final = "sha256:" + "0" * 64
_DOCUMENTS: Final[tuple[Mapping[str, Any], ...]] = (
    {"latestAgentVersion": "1.277.0.20230914-094321"},
    {"availableVersions": ["1.277.0.20230914-094321", "1.279.0.20231001-000000"]},
    {"tenantUUID": "abc12345", "tenantToken": "secret", "communicationEndpoints": ["https://a.example/communication"]},
    {"revision": 7, "properties": [{"section": "general", "key": "debug", "value": "false"}]},
    {"scopes": ["InstallerDownload"]},
    {"token": "good", "access_token": "good", "expires_in": 300, "issued_at": "2026-01-01T00:00:00Z"},
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": _DIGEST, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": _DIGEST, "size": 100}],
    },
    {
        "schemaVersion": 2,
        "manifests": [{"digest": _DIGEST, "size": 1, "platform": {"os": "linux", "architecture": "amd64"}}],
    },
    {"error": {"code": 403, "message": "no"}, "errors": [{"code": "DENIED", "message": "no"}]},
)
_VALUES: Final[tuple[Any, ...]] = (
    *(
        None,
        True,
        0,
        -1,
        1e300,
        -1e300,
        2**63,
        10**400,
        "",
        "x" * 5000,
        "\x00",
        "\ud800",
        "../..",
        "sha256:" + "f" * 63,
    ),
    *([], {}, [[]], {"": {}}, [None] * 1000, {"a": "b"}, "Fri, 31 Dec 9999 23:59:59 GMT"),
)
_HEADERS: Final = (
    *(b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 1", b"Content-Length: 1, 2"),
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Content-Encoding: gzip",
        b"X: \xff\xfe\x80",
    ),
    *(b"Location: /again", b"Location: http://[", b"Location: //\xff", b"Location: http://127.0.0.1:1/", b": no name"),
    *(b"Docker-Content-Digest: " + _DIGEST.encode(), b"Docker-Content-Digest: md5:1", b"Set-Cookie: a=b; expires=x"),
    *(b'WWW-Authenticate: Bearer realm="', b'WWW-Authenticate: Bearer realm="http://\xff/",scope="x"', b"No colon"),
    *(b'WWW-Authenticate: Bearer realm="/token"', b"WWW-Authenticate: Basic", b"WWW-Authenticate: " + b"a=b," * 500),
    *(b"Retry-After: " + date.encode("utf-8", "replace")[:200] for date in hostile_documents.DATES),
)
_STATUSES: Final = (
    *(200,) * 8,
    100,
    102,
    204,
    206,
    301,
    302,
    304,
    307,
    400,
    401,
    401,
    403,
    404,
    416,
    429,
    500,
    503,
    999,
)
_ERRORS: Final = (errors.HttpError, unpack.PackageError, http_client.InvalidSettingsError)
_SETTINGS: Final = http_client.HttpSettings(timeout_seconds=2)


class Bench:
    """A server that sends the next answer to whoever asks, and the clients. One for each process."""

    def __init__(self) -> None:
        self.answer = b""
        self._server = RawServer(self._send)
        self._server.__enter__()
        self.host = f"127.0.0.1:{self._server.port}"
        access = client.TenantAccess(f"http://{self.host}/api", "token", http=_SETTINGS)
        endpoint = hosts.Endpoint(self.host, self.host, "team/agent", plain_http=True)
        login = auth.Login(endpoint, pull_secret.Credentials("agent", "open sesame"))
        self._tenant = client.Tenant(access)
        self._registry = repository.Repository(endpoint, login, _SETTINGS)
        self.readers: tuple[Callable[[], object], ...] = (
            self._tenant.latest_version,
            self._tenant.available_versions,
            self._tenant.connection,
            self._tenant.module_config,
            self._tenant.scopes,
            functools.partial(self._registry.resolve_tag, "1"),
            functools.partial(self._registry.list_referrers, _DIGEST, "application/x"),
            self._read_manifest,
        )

    def _send(self, connection: socket.socket, _request: bytes) -> None:
        connection.sendall(self.answer)
        # Its end, also if the client has not read all of it.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    def _read_manifest(self) -> None:
        for body in self._registry.find_by_tag("1"):
            read = manifest.parse(body, "registry")
            manifest.layers(read, "registry", unpack.UnpackLimits())


@functools.cache
def _bench() -> Bench:
    return Bench()


def judge(random: random.Random) -> str:
    """Read one answer; return the name of the error, or nothing."""
    bench = _bench()
    bench.answer = _answer(random)
    try:
        random.choice(bench.readers)()
    except _ERRORS as error:
        if "sesame" in str(error):
            raise AssertionError("an error shows the password") from error
        return type(error).__name__
    return ""


def _answer(random: random.Random) -> bytes:
    body = _document(random)
    status = random.choice(_STATUSES)
    lines = [b"HTTP/1.%d %d Answer" % (random.choice((1, 1, 1, 0, 2)), status)]
    if random.random() < 0.7:
        lines.append(b"Content-Length: %d" % len(body))
    lines += random.sample(_HEADERS, random.choice((0, 0, 0, 1, 1, 3)))
    whole = b"\r\n".join((*lines, b"", body))
    if b"Transfer-Encoding: chunked" in lines and random.random() < 0.8:
        whole = b"\r\n".join((*lines, b"", b"%x" % len(body), body, b"0", b"", b""))
    if random.random() < 0.1:
        whole = b"HTTP/1.1 103 Early\r\n\r\n" * random.randrange(200) + whole
    return _spoilt(random, whole) if random.random() < 0.2 else whole


def _document(random: random.Random) -> bytes:
    kind = random.random()
    if kind < 0.15:
        return random.choice(list(hostile_documents.ALL.values()))[:200_000]
    document: dict[str, Any] = json.loads(json.dumps(random.choice(_DOCUMENTS)))
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        _alter(random, document)
    body = json.dumps(document).encode()
    return _spoilt(random, body) if kind > 0.8 else body


def _alter(random: random.Random, part: Any) -> None:
    """Replace a value somewhere in a document."""
    keys: list[Any] = list(part) if isinstance(part, dict) else list(range(len(part)))
    if not keys:
        return
    key = random.choice(keys)
    if isinstance(part[key], (dict, list)) and random.random() < 0.6:
        _alter(random, part[key])
    else:
        part[key] = copy.deepcopy(random.choice(_VALUES))


def _spoilt(random: random.Random, text: bytes) -> bytes:
    """Change, remove or repeat bytes."""
    for _ in range(random.choice((1, 1, 3, 20))):
        at = random.randrange(len(text) + 1)
        match random.randrange(4):
            case 0:
                text = text[:at]
            case 1:
                text = text[:at] + random.randbytes(random.choice((1, 4))) + text[at + 1 :]
            case 2:
                text = text[:at] + text[at + random.randrange(20) :]
            case _:
                text = text[:at] + text[at : at + 10] * random.choice((2, 50)) + text[at:]
    return text
