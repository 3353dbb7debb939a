"""Errors of an API server, each with what to do about it.

    ApiError
    ├── KubeconfigError    no usable configuration
    ├── NotFoundError      404
    ├── ForbiddenError     401 and 403: a role is missing
    ├── ConflictError      409: the object exists, or was changed since it was read
    ├── GoneError          410: the resource version is too old; only a new list helps
    ├── InvalidError       400 and 422: the API server does not accept the object
    └── UnavailableError   all that passes by itself: 429, 5xx, no connection, an unreadable response
        └── SilentError    no response in time

Sources that stand in for an API server raise the same errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from oneagent.common import typed_json

_LONGEST_MESSAGE: Final = 1000

_T = TypeVar("_T")


class ApiError(Exception):
    """A failed request; the text names the request and the server's answer."""


class KubeconfigError(ApiError):
    pass


class NotFoundError(ApiError):
    pass


class ForbiddenError(ApiError):
    pass


class ConflictError(ApiError):
    pass


class GoneError(ApiError):
    pass


class InvalidError(ApiError):
    pass


class UnavailableError(ApiError):
    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the server asked clients to wait; 0 if it did not."""


class SilentError(UnavailableError):
    pass


class Status(msgspec.Struct, frozen=True):
    """The object that an API server sends with an error."""

    code: int = 0
    reason: str = ""
    message: str = ""


_BY_CODE: Final[Mapping[int, type[ApiError]]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: InvalidError,
}


def from_status(request: str, status: Status, retry_after: float = 0.0) -> ApiError:
    text = " ".join(part for part in (str(status.code), status.reason) if part)
    text = f"{request}: {text}: {status.message[:_LONGEST_MESSAGE]}"
    if status.reason in {"Gone", "Expired"}:
        return GoneError(text)
    kind = _BY_CODE.get(status.code, UnavailableError)
    if issubclass(kind, UnavailableError):
        return kind(text, retry_after)
    return kind(f"{text} (see the service account's role)" if kind is ForbiddenError else text)


def from_response(request: str, code: int, reason: str, content: bytes, retry_after: str = "") -> ApiError:
    """The error of a response, with the message of its `Status` object if there is one."""
    try:
        message = decode(content, Status).message
    except UnavailableError:
        message = content[:_LONGEST_MESSAGE].decode(errors="replace")
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    return from_status(request, Status(code, reason, message), seconds)


def decode(content: bytes | msgspec.Raw, into: type[_T]) -> _T:
    """JSON as a type; `UnavailableError` if it is anything else."""
    try:
        return typed_json.decode(content, into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnavailableError(f"the API server's response cannot be read: {error}") from error


typed_json.prepare(Status, dict[str, Any])
