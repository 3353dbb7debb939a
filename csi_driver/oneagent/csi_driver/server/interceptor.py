"""The gRPC interceptor: times, counts and logs every call, hides secrets, maps errors to statuses.

Only listed fields of a request are logged: `secrets` and `volume_context` carry secrets and service account tokens,
so neither is logged completely.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import grpc

from oneagent.common import logs
from oneagent.csi_driver.server import request_decoding, request_validation
from oneagent.csi_driver.server.call_result import CallResult
from oneagent.csi_driver.server.errors import DriverError
from oneagent.csi_driver.server.metrics import ServerMetrics
from oneagent.csi_driver.server.request_decoding import RefusedRequest

log = logging.getLogger(__name__)

_LOGGED: Final = {"NodePublishVolume", "NodeUnpublishVolume"}
_CONTEXT: Final = {
    "pod": request_validation.POD_NAME,
    "namespace": request_validation.POD_NAMESPACE,
    "dynakube": "dynakube",
    "mode": "mode",
}
_MAX_FIELD: Final = 512
# gRPC limits the headers with a status to 8 KiB, where a character outside of ASCII has up to 12 bytes.
_MAX_MESSAGE: Final = 600


class CallContext:
    """Context of a call for its handler: the caller's deadline, and the result for metric and log.

    A `message` makes the log line a warning.
    """

    __slots__ = ("_rpc", "message", "result", "version")

    def __init__(self, rpc: grpc.ServicerContext) -> None:
        self._rpc = rpc
        self.result = CallResult.OK
        self.message = ""
        self.version = ""

    def set_result(self, result: CallResult, *, message: str = "", version: str = "") -> None:
        self.result, self.message, self.version = result, message, version

    def time_remaining(self) -> float | None:
        return self._rpc.time_remaining()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return bool(self._rpc.add_callback(callback))

    # Generated servicers and the health service set these.
    def set_code(self, code: grpc.StatusCode) -> None:
        self._rpc.set_code(code)

    def set_details(self, details: str) -> None:
        self._rpc.set_details(details)


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps every unary method. Handlers raise `DriverError`; the caller sees no other error of theirs."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        self._handlers: dict[str, Any] = {}
        self._unanswered: set[CallContext] = set()

    @property
    def is_busy(self) -> bool:
        """True while a call has no response yet."""
        return bool(self._unanswered)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        wrapped = self._handlers.get(path)
        if wrapped is None:
            handler = continuation(handler_call_details)
            if handler is None or handler.unary_unary is None:
                return handler
            wrapped = self._handlers[path] = grpc.unary_unary_rpc_method_handler(
                self._wrap(path.rpartition("/")[2], handler.unary_unary),
                request_deserializer=request_decoding.bounded(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return wrapped

    def _wrap(self, method: str, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def call(request: Any, rpc: grpc.ServicerContext) -> Any:
            started = time.perf_counter()
            context = CallContext(rpc)
            self._unanswered.add(context)
            try:
                if isinstance(request, RefusedRequest):
                    raise request.to_error()
                return behaviour(request, context)
            except DriverError as error:
                message = _shorten(str(error), _MAX_MESSAGE)
                context.set_result(error.result, message=message)
                rpc.abort(error.status, message)
            except NotImplementedError:
                context.set_result(CallResult.UNIMPLEMENTED)
                rpc.abort(grpc.StatusCode.UNIMPLEMENTED, f"this driver does not implement {method}")
            except OSError as error:
                # Not final, unlike INTERNAL: kubelet retries, and unpublishes when the pod goes.
                reason = f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
                context.set_result(CallResult.UNAVAILABLE, message=_shorten(reason, _MAX_MESSAGE))
                log.exception("call failed", extra=logs.fields(method=method, **_log_fields(request)))
                rpc.abort(grpc.StatusCode.UNAVAILABLE, context.message)
            except Exception:
                context.set_result(CallResult.ERROR, message="internal error; the driver's log has the details")
                log.exception("call failed", extra=logs.fields(method=method, **_log_fields(request)))
                rpc.abort(grpc.StatusCode.INTERNAL, context.message)
            finally:
                # Logged after the response is sent: kubelet waits for the mount, not for the log.
                done = functools.partial(self._report, method, request, context, time.perf_counter() - started)
                if not rpc.add_callback(done):
                    done()

        return call

    def _report(self, method: str, request: Any, context: CallContext, seconds: float) -> None:
        self._unanswered.discard(context)
        self._metrics.calls.labels(method, context.result).observe(seconds)
        if method in _LOGGED or context.message:
            level = logging.WARNING if context.message else logging.INFO
            log.log(
                level,
                "%s: %s",
                method,
                context.result,
                extra=logs.fields(
                    **_log_fields(request),
                    version=context.version,
                    reason=context.message,
                    seconds=round(seconds, 6),
                ),
            )


def _log_fields(request: Any) -> dict[str, Any]:
    details = {"volume": getattr(request, "volume_id", ""), "target": getattr(request, "target_path", "")}
    if context := getattr(request, "volume_context", None):
        details |= {name: context.get(key, "") for name, key in _CONTEXT.items()}
    return {name: _shorten(value, _MAX_FIELD) for name, value in details.items()}


def _shorten(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters]}…"
