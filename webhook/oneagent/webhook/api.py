"""The webhook's client of the API server, on aiohttp; requests raise `ApiError`.

aiohttp serves the admissions, so it is in memory anyway. Outside of a cluster lightkube reads the configuration
(`KUBECONFIG` or a file) and its TLS settings; in a cluster it is not loaded, which saves 4 MiB. The token is read for
every request, because kubelet renews it under a running process and requests other than watches are rare here.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from oneagent.common.kubernetes import aiohttp_client, client, in_cluster

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig
    from lightkube.config.models import User

_TIMEOUT_SECONDS: Final = 15.0
_FIELD_MANAGER: Final = "oneagent-webhook"
_APPLY: Final = "application/apply-patch+yaml"


class Api:
    """For one event loop; made by `connect`."""

    def __init__(self, session: aiohttp.ClientSession, authorization: Callable[[], str], namespace: str) -> None:
        self._session, self._authorization = session, authorization
        self.namespace = namespace
        """Of the configuration; in a cluster the pod's own."""

    async def close(self) -> None:
        await self._session.close()

    async def read(
        self,
        path: str,
        parameters: Mapping[str, str] | None = None,
        *,
        accept: str = "application/json",
        seconds: float = _TIMEOUT_SECONDS,
    ) -> bytes:
        timeout = aiohttp_client.timeout(seconds)
        async with self._request("GET", path, parameters, accept=accept, timeout=timeout) as response:
            return await response.read()

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Create an object."""
        timeout = aiohttp_client.timeout(_TIMEOUT_SECONDS)
        async with self._request("POST", path, body=body, timeout=timeout) as response:
            await response.read()

    async def apply_path(self, path: str, body: Mapping[str, Any]) -> None:
        """Create or change an object by server-side apply."""
        timeout, query = aiohttp_client.timeout(_TIMEOUT_SECONDS), {"fieldManager": _FIELD_MANAGER, "force": "true"}
        async with self._request("PATCH", path, query, body=body, content_type=_APPLY, timeout=timeout) as response:
            await response.read()

    @asynccontextmanager
    async def stream(
        self, path: str, parameters: Mapping[str, str], *, accept: str, silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """A response as it comes; `SilentError` if nothing comes for so long."""
        timeout = aiohttp_client.stream_timeout(silence_seconds)
        async with self._request("GET", path, parameters, accept=accept, timeout=timeout) as response:
            try:
                yield response.content.iter_any()
            finally:
                response.close()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the client's, for each part of a request
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        request = f"{method} {path}"
        try:
            headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
            if authorization := self._authorization():
                headers["Authorization"] = authorization
            async with self._session.request(
                method, path, params=parameters, json=body, headers=headers, timeout=timeout
            ) as response:
                await aiohttp_client.check(request, response)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise aiohttp_client.failure(request, error) from error


def connect(path: Path | None = None, service_account: Path = client.SERVICE_ACCOUNT) -> Api:
    """Make a client in the running event loop; `KubeconfigError`.

    Without a file: in-cluster, then `KUBECONFIG`, then `~/.kube/config`.
    """
    if path is None and (found := in_cluster.load(service_account)) is not None:
        return Api(_session(found.url, found.tls), found.authorization, found.namespace)
    from lightkube.config import client_adapter

    from oneagent.common.kubernetes import kubeconfig

    def make(config: SingleConfig, user: User) -> Api:
        tls = client_adapter.verify_cluster(config.cluster, user, config.abs_file, trust_env=False)
        authorization = _authorization(user)
        return Api(_session(config.cluster.server, tls), authorization, config.namespace)

    return kubeconfig.load(make, path, service_account)


def _session(url: str, tls: ssl.SSLContext | bool) -> aiohttp.ClientSession:
    connector = aiohttp_client.connector(tls)
    return aiohttp.ClientSession(url, connector=connector, response_class=aiohttp_client.Response)


def _authorization(user: User) -> Callable[[], str]:
    """The value of that header at the time of a request; empty for none."""
    if user.exec is not None or user.auth_provider is not None:
        raise ValueError(
            "its user gets a token from another program; configure a token, tokenFile or client certificate"
        )
    if user.token_file is not None:
        path = Path(user.token_file)
        return lambda: f"Bearer {path.read_text().strip()}"
    fixed = ""
    if user.token is not None:
        fixed = f"Bearer {user.token}"
    elif user.username and user.password:
        fixed = "Basic " + base64.b64encode(f"{user.username}:{user.password}".encode()).decode()
    return lambda: fixed
