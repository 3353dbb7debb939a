"""Errors of HTTP requests, with messages that name the remedy.

    HttpError                       a request did not succeed
    ├── UnreachableError            no response: name, connection, TLS, proxy or timeout (see `stage`)
    ├── HttpStatusError             an error status, with the server's own words
    ├── RateLimitedError            "later": 429 or 503, with `retry_after` seconds if the server gave them
    ├── UnexpectedResponseError     a response of another form than the documented one
    └── RequestCancelledError       cancelled by the caller

`is_transient` is True if the same request may succeed later without a change. No message shows a header, a
query or the user part of a URL, so no token and no password.
"""

from __future__ import annotations

import datetime
import email.utils
import re
import socket
import ssl
import time
from enum import StrEnum
from typing import Final

import httpx2 as httpx
import msgspec

from oneagent.common import foreign_json, typed_json
from oneagent.common.http import tls_faults

MAX_MESSAGE_LENGTH: Final = 300
_LONGEST_RETRY_AFTER: Final = 3600.0


class Stage(StrEnum):
    """Stage of a request at which the server became unreachable."""

    NAME = "name"
    CONNECT = "connect"
    TLS = "tls"
    PROXY = "proxy"
    TIMEOUT = "timeout"
    BROKEN = "broken"


class HttpError(Exception):
    """A request did not succeed."""

    is_transient = True
    retry_after: float | None = None


class UnreachableError(HttpError):
    """No response came."""

    def __init__(self, message: str, stage: Stage) -> None:
        super().__init__(message)
        self.stage = stage
        # A certificate does not become trusted by asking again.
        self.is_transient = stage is not Stage.TLS


class HttpStatusError(HttpError):
    """The server answered with an error status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        self.is_transient = status >= 500 or status in (408, 425)


class RateLimitedError(HttpError):
    """The server asks the client to come back later."""

    def __init__(self, message: str, status: int, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class UnexpectedResponseError(HttpError):
    """The response is not of the documented form."""

    is_transient = False


class RequestCancelledError(HttpError):
    """The caller cancelled the request."""

    is_transient = False


def from_transport_error(error: httpx.HTTPError | httpx.InvalidURL, url: str) -> HttpError:
    """Convert an error of the HTTP library, for a request of `url`."""
    url_text, cause = redact_url(url), _root_cause(error)
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.TooManyRedirects):
        return UnexpectedResponseError(f"{url_text}: the request cannot be sent ({_sanitize(str(error))})")
    stage, detail = _locate(error, cause)
    return UnreachableError(f"{url_text}: {detail}", stage)


def _locate(error: httpx.HTTPError, cause: BaseException) -> tuple[Stage, str]:
    result = Stage.BROKEN, f"the connection broke ({type(error).__name__})"
    match error, cause:
        case _, ssl.SSLError() if _is_tls_fault(error, cause):
            result = Stage.TLS, tls_faults.explain(cause, time.time())
        case httpx.ProxyError(), _:
            result = Stage.PROXY, f"the proxy refused the connection ({_sanitize(str(error))})"
        case _, socket.gaierror(strerror=reason):
            result = Stage.NAME, f"the host name cannot be resolved ({reason})"
        case httpx.TimeoutException(), _:
            did = "connect" if isinstance(error, httpx.ConnectTimeout) else "answer"
            result = Stage.TIMEOUT, f"did not {did} in time: is a proxy or a firewall in between?"
        case httpx.ConnectError(), OSError(strerror=reason):
            result = Stage.CONNECT, f"cannot connect ({reason or 'connection failed'})"
        case _:
            pass
    return result


def _is_tls_fault(error: httpx.HTTPError, cause: ssl.SSLError) -> bool:
    """Return True if both sides could not agree on TLS; a server that refuses a client may say so after that."""
    if isinstance(cause, ssl.SSLEOFError):
        return False
    return isinstance(error, httpx.ConnectError) or "ALERT" in (cause.reason or "")


def from_response(
    response: httpx.Response,
    body: bytes,
    *,
    secret: str = "",
    remedy: str = "",
    now: float | None = None,
) -> HttpError:
    """Convert a response with an error status or an unexpected one.

    `remedy` is added where the token is refused (401, 403): which token it is and what it must be allowed.
    `secret` is removed from the server's words, in case it echoes it.
    """
    status, url_text, detail = response.status_code, redact_url(str(response.url)), _message(body)
    detail = detail.replace(secret, "***") if secret else detail
    text = f"{url_text}: answered {status}{f': {detail}' if detail else ''}"
    if status in (429, 503):
        return RateLimitedError(text, status, parse_retry_after(response.headers.get("Retry-After", ""), now))
    if status in (401, 403) and remedy:
        text += f" ({remedy})"
    if status < 400:
        return UnexpectedResponseError(text)
    return HttpStatusError(text, status)


def parse_retry_after(value: str, now: float | None = None) -> float | None:
    """Seconds to wait by a `Retry-After` header: a number or a date (RFC 9110 section 10.2.3)."""
    value = value.strip()
    if re.fullmatch(r"\d{1,30}", value, re.ASCII):
        return min(float(value), _LONGEST_RETRY_AFTER)
    try:
        date = email.utils.parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.UTC)
        seconds = date.timestamp() - (time.time() if now is None else now)
    except Exception:  # noqa: BLE001 - the parser has more ways to fail than it documents, as for absurd years
        return None
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER)


def redact_url(url: str) -> str:
    """Return a URL without user, password and query."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "an unreadable URL"
    port = f":{parsed.port}" if parsed.port else ""
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"{parsed.scheme}://{host}{port}{parsed.path}"


class _Error(msgspec.Struct):
    message: str = ""


class _ErrorBody(msgspec.Struct):
    """A tenant sends `error`, a registry `errors`."""

    error: _Error | None = None
    errors: list[_Error] | None = None


def _message(body: bytes) -> str:
    try:
        detail = foreign_json.decode(body, _ErrorBody)
    except foreign_json.DocumentError:
        return ""
    errors = [detail.error] if detail.error else detail.errors or []
    return _sanitize("; ".join(error.message for error in errors))


def _sanitize(text: str) -> str:
    """Text from outside, as one line of bounded length."""
    return " ".join(re.sub(r"[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff]", " ", text).split())[:MAX_MESSAGE_LENGTH]


def _root_cause(error: BaseException) -> BaseException:
    """Return the first error of the chain that the system or the TLS library raised, else the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


typed_json.prepare(_ErrorBody)
