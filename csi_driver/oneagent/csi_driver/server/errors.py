"""Errors of CSI calls. Each class carries its gRPC status, which decides how kubelet reacts.

    DriverError
    ├── InvalidRequestError      INVALID_ARGUMENT     final: kubelet cleans up and does not call unpublish
    ├── NotFoundError            NOT_FOUND            only for statistics: unpublish of an unknown volume is OK
    ├── AlreadyExistsError       ALREADY_EXISTS       something else is mounted at the target
    ├── PublishedElsewhereError  FAILED_PRECONDITION  the volume is published at another target
    ├── NotReadyError            FAILED_PRECONDITION  the probe's answer where only a restart helps
    ├── CallInFlightError        ABORTED              another call for this volume is in flight
    ├── UnavailableError         UNAVAILABLE          not final: kubelet retries, and unpublishes when the pod goes
    │   └── AttemptFailedError                        counts against the volume's retry limit
    └── InternalError            INTERNAL             unpublish could not finish; kubelet retries any error there

Publish returns a final error only after it has undone its work, because unpublish may never come.
"""

from __future__ import annotations

import grpc

from oneagent.csi_driver.server.call_result import CallResult


class DriverError(Exception):
    """Base class. `str()` is the message of the status, without secrets."""

    status = grpc.StatusCode.INTERNAL
    result = CallResult.ERROR


class InvalidRequestError(DriverError):
    """`field` of the request has an unusable value."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    result = CallResult.INVALID

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class NotFoundError(DriverError):
    status = grpc.StatusCode.NOT_FOUND
    result = CallResult.NOT_FOUND


class AlreadyExistsError(DriverError):
    status = grpc.StatusCode.ALREADY_EXISTS
    result = CallResult.CONFLICT


class PublishedElsewhereError(DriverError):
    status = grpc.StatusCode.FAILED_PRECONDITION
    result = CallResult.CONFLICT


class NotReadyError(DriverError):
    status = grpc.StatusCode.FAILED_PRECONDITION
    result = CallResult.UNAVAILABLE


class CallInFlightError(DriverError):
    status = grpc.StatusCode.ABORTED
    result = CallResult.IN_FLIGHT


class UnavailableError(DriverError):
    status = grpc.StatusCode.UNAVAILABLE
    result = CallResult.UNAVAILABLE


class AttemptFailedError(UnavailableError):
    pass


class InternalError(DriverError):
    status = grpc.StatusCode.INTERNAL
    result = CallResult.ERROR
