"""HTTPS server for admission and conversion requests.

A valid request is always answered with 200, an invalid one with 400 or 413 and the reason. API servers keep idle
connections for 90 seconds. The server keeps them longer, so that it never closes one while a request is on its way.
While draining it is not ready, but still answers every request, and closes the connection with the response.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from oneagent.common import durations, logs
from oneagent.webhook import admission_review, conversion
from oneagent.webhook.admission import AdmissionDecision
from oneagent.webhook.admission_review import LateError, OversizeError, Request, ReviewError
from oneagent.webhook.metrics import Metrics

log = logging.getLogger(__name__)

ADMISSIONS: Final = ("/inject", "/label-ns", "/validate")
CONVERT: Final = "/convert"

_BODY_BYTES: Final = 8 << 20
_KEEPALIVE_SECONDS: Final = 150.0
_DEFAULT_SECONDS: Final = 10.0
_MAX_SECONDS: Final = 30.0
"""Maximum of `timeoutSeconds` in a webhook configuration"""
_BACKLOG: Final = 1024


class Admission(Protocol):
    async def decide(self, path: str, request: Request, seconds: float) -> AdmissionDecision: ...


@dataclass(frozen=True, slots=True)
class Settings:
    host: str
    port: int
    """0: a free port"""
    drain_seconds: float = 5.0
    """Time during which requests still arrive at an endpoint that is no longer ready"""
    finish_seconds: float = 15.0
    """Longest time for requests in progress at the end"""


class Server:
    """For one event loop."""

    def __init__(self, settings: Settings, context: ssl.SSLContext, admission: Admission, metrics: Metrics) -> None:
        self._settings, self._context, self._admission, self._metrics = settings, context, admission, metrics
        self._runner: web.AppRunner | None = None
        self.port = settings.port
        """The port after `start`"""
        self.serving = False
        self.draining = False

    async def start(self) -> None:
        """Listen; `OSError` if the port is not available."""
        application = web.Application(client_max_size=_BODY_BYTES)
        application.add_routes(web.post(path, self._admit) for path in ADMISSIONS)
        application.add_routes([web.post(CONVERT, self._convert)])
        self._runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            shutdown_timeout=self._settings.finish_seconds,
        )
        await self._runner.setup()
        host, port = self._settings.host or None, self._settings.port
        await web.TCPSite(self._runner, host, port, ssl_context=self._context, backlog=_BACKLOG).start()
        self.port = self._runner.addresses[0][1]
        self.serving = True
        log.info("serving admissions", extra=logs.fields(port=self.port))

    async def stop(self) -> None:
        """Drain: serve until requests stop, finish those in progress, and close."""
        self.draining = True
        log.info("draining", extra=logs.fields(seconds=self._settings.drain_seconds))
        await asyncio.sleep(self._settings.drain_seconds)
        self.serving = False
        if self._runner is not None:
            await self._runner.cleanup()

    async def _admit(self, request: web.Request) -> web.Response:
        started, seconds = time.perf_counter(), _seconds(request)
        try:
            review = admission_review.admission(await _read(request, seconds))
        except ReviewError as error:
            return self._reject(request.path, error)
        decision = await self._admission.decide(request.path, review, seconds)
        answer = admission_review.admitted(
            review.uid, patch=decision.patch, warnings=decision.warnings, denied=decision.denied
        )
        _log_decision(request.path, review, decision)
        return self._respond(request.path, decision.outcome, decision.reason, answer, started)

    async def _convert(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        try:
            review = admission_review.conversion(await _read(request, _seconds(request)))
        except ReviewError as error:
            return self._reject(CONVERT, error)
        outcome, reason, answer = conversion.answer(review)
        return self._respond(CONVERT, outcome, reason, answer, started)

    def _respond(self, path: str, outcome: str, reason: str, body: bytes, started: float) -> web.Response:
        self._metrics.requests.labels(path, outcome, reason).inc()
        self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
        response = web.Response(body=body, content_type="application/json")
        if self.draining:
            response.force_close()
        return response

    def _reject(self, path: str, error: ReviewError) -> web.Response:
        self._metrics.requests.labels(path, "refused", str(error.status)).inc()
        log.warning("request rejected", extra=logs.fields(path=path, status=error.status, reason=error))
        response = web.Response(status=error.status, text=f"{error}\n")
        response.force_close()  # the rest of the body is not read
        return response


async def _read(request: web.Request, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise OversizeError(f"the body is too large: at most {_BODY_BYTES} bytes are read") from error
    except TimeoutError as error:
        raise LateError(f"the body did not come within {seconds:g} s") from error


def _seconds(request: web.Request) -> float:
    """Return the request's timeout, less the time for the way back."""
    try:
        timeout = durations.parse(request.query["timeout"])
    except (KeyError, ValueError):
        timeout = _DEFAULT_SECONDS
    return max(0.1, min(timeout, _MAX_SECONDS) * 0.9 - 0.1)


def _log_decision(path: str, review: Request, decision: AdmissionDecision) -> None:
    level = logging.INFO if decision.outcome in ("denied", "error") else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    fields = logs.fields(
        path=path,
        namespace=review.namespace,
        name=review.name,
        operation=review.operation,
        outcome=decision.outcome,
        reason=decision.reason,
        denied=decision.denied.message if decision.denied else None,
        uid=review.uid,
    )
    log.log(level, "admission decided", extra=fields)
