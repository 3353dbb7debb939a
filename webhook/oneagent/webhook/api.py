"""The API server: one connection pool, and errors that say what to do about them.

    ApiError
    ├── NotFoundError      404
    ├── GoneError          410: the version asked for is forgotten, only a new list helps
    ├── ForbiddenError     401 and 403: a role is missing
    └── UnavailableError   all that passes by itself: 429, 5xx, no connection, an answer that cannot be read

The HTTP client is the server's own library, which is in memory anyhow. Of lightkube this takes what is laborious
to get right: the configuration (in-cluster, `KUBECONFIG` or a file) and its TLS.

The token is read for every request: kubelet renews it under a running process, and a request that is not a watch
is rare here. Connections are kept alive by the kernel, so a watch on a dead one ends within a minute, however
long nothing changes.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User

from oneagent.common.kubernetes import kubeconfig

_CONNECT_SECONDS: Final = 5.0
_TIMEOUT_SECONDS: Final = 15.0
_STREAM_SPARE_SECONDS: Final = 15.0
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))

_T = TypeVar("_T")


class ApiError(Exception):
    """The API server has not done what it was asked for; the text says what, and what it answered."""


class NotFoundError(ApiError):
    pass


class GoneError(ApiError):
    pass


class ForbiddenError(ApiError):
    pass


class UnavailableError(ApiError):
    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the server wants to be left alone; 0 if it said nothing"""


class Status(msgspec.Struct, frozen=True):
    """The API server's word for an error."""

    code: int = 0
    reason: str = ""
    message: str = ""


class _Answer(aiohttp.ClientResponse):
    """One that was closed before its end has let go of its connection.

    TLS would close it only after the server's farewell, for which asyncio waits half a minute. A server that has
    nothing to say does not read either, so it sends none, and a loop that ends meanwhile leaves the socket open.
    """

    def close(self) -> None:
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.abort()
        super().close()


class Api:
    """For one event loop; made by `connect`."""

    def __init__(self, session: aiohttp.ClientSession, authorization: Callable[[], str], namespace: str) -> None:
        self._session, self._authorization = session, authorization
        self.namespace = namespace
        """The one that the configuration names; in a cluster the pod's own"""

    async def close(self) -> None:
        await self._session.close()

    async def get(
        self,
        path: str,
        parameters: Mapping[str, str] | None = None,
        *,
        accept: str = "application/json",
        seconds: float = _TIMEOUT_SECONDS,
    ) -> bytes:
        async with self._answer("GET", path, parameters, accept=accept, timeout=_timeout(seconds)) as answer:
            return await answer.read()

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Create an object."""
        async with self._answer("POST", path, body=body, timeout=_timeout(_TIMEOUT_SECONDS)) as answer:
            await answer.read()

    @asynccontextmanager
    async def stream(
        self, path: str, parameters: Mapping[str, str], *, accept: str, seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """An answer as it comes; the server is to end it after `seconds` with nothing to say."""
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=seconds + _STREAM_SPARE_SECONDS)
        async with self._answer("GET", path, parameters, accept=accept, timeout=timeout) as answer:
            try:
                yield answer.content.iter_any()
            finally:
                answer.close()

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the client's, for each part of a request
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            headers = {"Accept": accept}
            if authorization := self._authorization():
                headers["Authorization"] = authorization
            async with self._session.request(
                method, path, params=parameters, json=body, headers=headers, timeout=timeout
            ) as answer:
                if answer.status >= 400:
                    raise _error(f"{method} {path}", answer, await answer.read())
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"{method} {path}: {type(error).__name__}: {error}") from error


def connect(path: Path | None = None, service_account: Path = kubeconfig.SERVICE_ACCOUNT) -> Api:
    """To be called in the event loop. Without a file: in-cluster, then `KUBECONFIG`, then `~/.kube/config`."""

    def make(config: SingleConfig, user: User) -> Api:
        tls = client_adapter.verify_cluster(config.cluster, user, config.abs_file, trust_env=False)
        authorization = _authorization(user)
        connector = aiohttp.TCPConnector(ssl=tls, socket_factory=_socket)
        session = aiohttp.ClientSession(config.cluster.server, connector=connector, response_class=_Answer)
        return Api(session, authorization, config.namespace)

    try:
        return kubeconfig.use(make, path, service_account)
    except kubeconfig.KubeconfigError as error:
        raise ApiError(str(error)) from error


def decode(content: bytes | msgspec.Raw, into: type[_T]) -> _T:
    try:
        return msgspec.json.decode(content, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnavailableError(f"the API server's answer cannot be read: {error}") from error


def failure(what: str, status: Status, retry_after: float = 0.0) -> ApiError:
    text = f"{what}: {status.code} {status.reason}: {status.message[:500]}"
    if status.code == 410 or status.reason in {"Gone", "Expired"}:
        return GoneError(text)
    if status.code == 404:
        return NotFoundError(text)
    if status.code in {401, 403}:
        return ForbiddenError(f"{text} (see the service account's role)")
    return UnavailableError(text, retry_after)


def _error(what: str, answer: aiohttp.ClientResponse, content: bytes) -> ApiError:
    try:
        message = decode(content, Status).message
    except UnavailableError:
        message = content[:500].decode(errors="replace")
    seconds = answer.headers.get("Retry-After", "")
    retry_after = float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0
    return failure(what, Status(answer.status, answer.reason or "", message), retry_after)


def _authorization(user: User) -> Callable[[], str]:
    """What the header of that name is at the time of a request; empty for none."""
    if user.exec is not None or user.auth_provider is not None:
        raise ValueError("its user takes a token from another program; give a token, tokenFile or client certificate")
    if user.token_file is not None:
        path = Path(user.token_file)
        return lambda: f"Bearer {path.read_text().strip()}"
    fixed = ""
    if user.token is not None:
        fixed = f"Bearer {user.token}"
    elif user.username and user.password:
        fixed = "Basic " + base64.b64encode(f"{user.username}:{user.password}".encode()).decode()
    return lambda: fixed


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    found = socket.socket(address[0], address[1], address[2])
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            found.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        found.close()
        raise
    return found
