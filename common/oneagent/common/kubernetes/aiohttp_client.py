"""Parts of a client on aiohttp, for the webhook and the operator."""

from __future__ import annotations

import socket
import ssl

import aiohttp

from oneagent.common.kubernetes import client, errors


class Response(aiohttp.ClientResponse):
    """A response that releases its connection at once when it is closed before its end.

    TLS would wait for the server's closing alert, which asyncio allows half a minute. A server with nothing to send
    does not read either, so it sends none, and a loop that ends meanwhile leaves the socket open.
    """

    def close(self) -> None:
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.abort()
        super().close()


def connector(tls: ssl.SSLContext | bool) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(ssl=tls, socket_factory=_open_socket)


def timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=client.CONNECT_SECONDS)


def stream_timeout(silence_seconds: float) -> aiohttp.ClientTimeout:
    """For a stream that is dead if nothing comes for so long."""
    return aiohttp.ClientTimeout(sock_connect=client.CONNECT_SECONDS, sock_read=silence_seconds)


def failure(request: str, error: Exception) -> errors.UnavailableError:
    """The error of a request that got no response."""
    kind = errors.SilentError if isinstance(error, TimeoutError) else errors.UnavailableError
    return kind(f"{request}: {type(error).__name__}: {error}")


async def check(request: str, response: aiohttp.ClientResponse) -> None:
    """Raise the `ApiError` of a response that is none of success."""
    if response.status >= 400:
        content, retry_after = await response.read(), response.headers.get("Retry-After", "")
        raise errors.from_response(request, response.status, response.reason or "", content, retry_after)


def _open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    sock = socket.socket(address[0], address[1], address[2])
    try:
        client.keep_alive(sock)
    except OSError:
        sock.close()
        raise
    return sock
