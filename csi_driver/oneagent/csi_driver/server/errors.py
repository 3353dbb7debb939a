"""What a CSI call can fail with. Each class carries its gRPC status, and so what kubelet makes of it.

    DriverError
    ├── InvalidRequest      INVALID_ARGUMENT     final: kubelet cleans up and does not call unpublish
    ├── NotFound            NOT_FOUND            only for statistics: unpublish of an unknown volume is OK
    ├── Conflict            ALREADY_EXISTS       something else is mounted at the target
    ├── TargetElsewhere     FAILED_PRECONDITION  the volume is published at another target
    ├── InFlight            ABORTED              another call for this volume is under way
    ├── NotNow              UNAVAILABLE          not final: kubelet retries, and unpublishes when the pod goes
    │   └── AttemptFailed                        counts against the volume's limit
    └── Failed              INTERNAL             unpublish could not finish; kubelet retries any error there

Publish answers a final error only after it has undone what it did, since unpublish may never come.
"""

from __future__ import annotations

import grpc


class DriverError(Exception):
    """The root. `str()` of it is the message of the status: for people, without secrets."""

    status = grpc.StatusCode.INTERNAL
    result = "error"


class InvalidRequestError(DriverError):
    """`field` of the request can't be used as it is."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    result = "invalid"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class NotFoundError(DriverError):
    status = grpc.StatusCode.NOT_FOUND
    result = "not_found"


class AlreadyExistsError(DriverError):
    status = grpc.StatusCode.ALREADY_EXISTS
    result = "conflict"


class PublishedElsewhereError(DriverError):
    status = grpc.StatusCode.FAILED_PRECONDITION
    result = "conflict"


class CallInFlightError(DriverError):
    status = grpc.StatusCode.ABORTED
    result = "in_flight"


class UnavailableError(DriverError):
    status = grpc.StatusCode.UNAVAILABLE
    result = "unavailable"


class AttemptFailedError(UnavailableError):
    pass


class InternalError(DriverError):
    status = grpc.StatusCode.INTERNAL
    result = "error"
