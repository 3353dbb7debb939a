"""Errors of a request for a package; each class has its HTTP status.

PackagesError
├── BadRequestError         400: malformed request
├── UnauthenticatedError    401: no token, or no service account token for this audience
├── NotRequestedError       404: no DynaKube uses this version
├── MethodError             405
├── TooManyVariantsError    429: too many architectures and technologies of one version
├── OriginError             502: the tenant refuses, or its package is invalid
├── PendingError            503: the download is running, or the tenant is temporarily unavailable
├── BusyError               503: all transfer slots are in use, or the API server cannot review the token
└── NoRoomError             507: the package does not fit into the budget
"""

from __future__ import annotations

from typing import ClassVar


class PackagesError(Exception):
    """The text is sent to the client: it contains no token and no query of a URL."""

    status: ClassVar[int]
    outcome: ClassVar[str]
    """Label value of the metric."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(PackagesError):
    status, outcome = 400, "bad_request"


class UnauthenticatedError(PackagesError):
    status, outcome = 401, "unauthenticated"


class NotRequestedError(PackagesError):
    status, outcome = 404, "not_requested"


class MethodError(PackagesError):
    status, outcome = 405, "bad_request"


class TooManyVariantsError(PackagesError):
    status, outcome = 429, "too_many_variants"


class OriginError(PackagesError):
    status, outcome = 502, "origin_failed"


class PendingError(PackagesError):
    status, outcome = 503, "pending"


class BusyError(PackagesError):
    status, outcome = 503, "busy"


class NoRoomError(PackagesError):
    status, outcome = 507, "no_space"
