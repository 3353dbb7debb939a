"""Short responses: read completely, of bounded size, in bounded time, and of the documented form.

Errors are those of `http.errors`.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final, TypeVar

import httpx2 as httpx
import msgspec

from oneagent.common.http import errors

_TIMEOUT_SECONDS: Final = 60.0
_T = TypeVar("_T")


def fetch(http: httpx.Client, request: httpx.Request, max_bytes: int) -> tuple[httpx.Response, bytes]:
    """Send a request and return the response with its body of at most `max_bytes`."""
    where = errors.redact_url(str(request.url))
    # The body is read raw, and by default the library accepts compressed bodies.
    request.headers["Accept-Encoding"] = "identity"
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    body = bytearray()
    try:
        with contextlib.closing(http.send(request, stream=True)) as response:
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > max_bytes:
                    raise errors.UnexpectedResponseError(f"{where}: a response of more than {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise errors.UnreachableError(f"{where}: the response is too slow", errors.Stage.TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise errors.from_transport_error(error, str(request.url)) from error
    return response, bytes(body)


def decode(body: bytes, expected: type[_T], where: str) -> _T:
    """Decode a JSON body; the error names the field and never a value."""
    try:
        return msgspec.json.decode(body, type=expected)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.UnexpectedResponseError(f"{where}: not the documented response: {error}") from error
