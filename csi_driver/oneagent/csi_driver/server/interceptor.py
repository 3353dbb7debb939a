"""One place that times, counts and logs every call, hides what must not be seen, and turns errors into statuses.

Of a request only named fields are ever logged: secrets and service account tokens travel in `secrets` and
`volume_context`, so neither is written out as a whole.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import grpc

from oneagent.common import logs
from oneagent.csi_driver.server import request_validation
from oneagent.csi_driver.server.errors import DriverError
from oneagent.csi_driver.server.metrics import ServerMetrics

log = logging.getLogger(__name__)

_LOGGED: Final = {"NodePublishVolume", "NodeUnpublishVolume"}
_CONTEXT: Final = {
    "pod": request_validation.POD_NAME,
    "namespace": request_validation.POD_NAMESPACE,
    "dynakube": "dynakube",
    "mode": "mode",
}


class Calls(grpc.ServerInterceptor):
    """Wraps every unary method. Handlers raise `DriverError`; nothing else they raise reaches the caller."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        self._handlers: dict[str, Any] = {}

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        wrapped = self._handlers.get(path)
        if wrapped is None:
            handler = continuation(handler_call_details)
            if handler is None or handler.unary_unary is None:
                return handler
            wrapped = self._handlers[path] = grpc.unary_unary_rpc_method_handler(
                self._wrapped(path.rpartition("/")[2], handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return wrapped

    def _wrapped(self, method: str, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            started = time.perf_counter()
            outcome = Outcome()
            context.outcome = outcome  # type: ignore[attr-defined]
            try:
                return behaviour(request, context)
            except DriverError as error:
                outcome.result, outcome.message = error.result, str(error)
                context.abort(error.status, str(error))
            except NotImplementedError:
                outcome.result = "unimplemented"
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not offered by this driver")
            except Exception:
                outcome.result, outcome.message = "error", "internal error; the driver's log has the details"
                log.exception("call failed", extra=logs.facts(method=method, **_facts(request)))
                context.abort(grpc.StatusCode.INTERNAL, outcome.message)
            finally:
                # Said once the answer is on its way: kubelet waits for the mount, not for the log.
                done = functools.partial(self._done, method, request, outcome, time.perf_counter() - started)
                if not context.add_callback(done):
                    done()

        return call

    def _done(self, method: str, request: Any, outcome: Outcome, seconds: float) -> None:
        self._metrics.calls.labels(method, outcome.result).observe(seconds)
        if method in _LOGGED or outcome.message:
            level = logging.WARNING if outcome.message else logging.INFO
            log.log(
                level,
                "%s: %s",
                method,
                outcome.result,
                extra=logs.facts(
                    **_facts(request),
                    version=outcome.version,
                    reason=outcome.message,
                    seconds=round(seconds, 6),
                ),
            )


class Outcome:
    """How a call ended: a handler may say more than "ok". `message` makes it a warning."""

    __slots__ = ("message", "result", "version")

    def __init__(self) -> None:
        self.result = "ok"
        self.message = ""
        self.version = ""


def _facts(request: Any) -> dict[str, Any]:
    facts = {"volume": getattr(request, "volume_id", ""), "target": getattr(request, "target_path", "")}
    if context := getattr(request, "volume_context", None):
        facts |= {name: context.get(key, "") for name, key in _CONTEXT.items()}
    return facts
