"""Why a request for a package is not answered with the package; each class is an answer.

PackagesError
├── BadRequestError      400: the request is not one that the documentation has
├── NotProvenError       401: no token, or none that a service account has for this audience
├── UnwantedError        404: no DynaKube wants this version
├── MethodError          405
├── TooManyKindsError    429: one version in more architectures and technologies than anybody needs
├── OriginError          502: the tenant refuses, or sends what is no package
├── PendingError         503: the package is on its way, or its tenant is away for a time
├── BusyError            503: all that can be sent at once is being sent, or nobody can say who the caller is
└── NoRoomError          507: it does not fit into the budget
"""

from __future__ import annotations

from typing import ClassVar


class PackagesError(Exception):
    """The text is for the caller: it holds no token and no query of a URL."""

    status: ClassVar[int]
    outcome: ClassVar[str]
    """The value of the metric's label."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequestError(PackagesError):
    status, outcome = 400, "bad_request"


class NotProvenError(PackagesError):
    status, outcome = 401, "not_proven"


class UnwantedError(PackagesError):
    status, outcome = 404, "unwanted"


class MethodError(PackagesError):
    status, outcome = 405, "bad_request"


class TooManyKindsError(PackagesError):
    status, outcome = 429, "too_many_kinds"


class OriginError(PackagesError):
    status, outcome = 502, "origin_failed"


class PendingError(PackagesError):
    status, outcome = 503, "pending"


class BusyError(PackagesError):
    status, outcome = 503, "busy"


class NoRoomError(PackagesError):
    status, outcome = 507, "no_room"
