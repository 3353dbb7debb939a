"""HTTPS server for admission and conversion requests.

A valid request is answered with 200, an invalid one with 400, 408 or 413 and the reason, and one that is too much at
the time with 503. API servers keep idle connections for 90 seconds. The server keeps those that it has answered
longer, so that it never closes one while a request is on its way; others have ten seconds for their first request.
While draining it is not ready, but still answers every request, and closes the connection with the response.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import time
import urllib.parse
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from oneagent.common import durations, logs
from oneagent.common.http.bounded_listener import BoundedListener
from oneagent.common.http.connections import ConnectionLimits
from oneagent.webhook import admission_review, conversion
from oneagent.webhook.admission import AdmissionDecision
from oneagent.webhook.admission_review import Request, ReviewError
from oneagent.webhook.body_budget import BodyBudget
from oneagent.webhook.metrics import Metrics

log = logging.getLogger(__name__)

ADMISSIONS: Final = ("/inject", "/label-ns", "/validate")
CONVERT: Final = "/convert"

_LIMITS: Final = ConnectionLimits(connections=256, idle_seconds=150.0)
_LINGER_SECONDS: Final = 2.0
"""For the rest of a rejected body, so that its sender reads the reason"""
_DEFAULT_SECONDS: Final = 10.0
_MAX_SECONDS: Final = 30.0
"""Maximum of `timeoutSeconds` in a webhook configuration"""


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
        self._settings, self._admission, self._metrics = settings, admission, metrics
        self._listener = BoundedListener(_LIMITS, context)
        self._bodies = BodyBudget()
        self._handlers = {**dict.fromkeys(ADMISSIONS, self._admit), CONVERT: self._convert}
        self._runner: web.ServerRunner | None = None
        self.port = settings.port
        """The port after `start`"""
        self.serving = False
        self.draining = False

    async def start(self) -> None:
        """Listen; `OSError` if the port is not available."""
        # Without aiohttp's application: its routes and middlewares would be 2 % of an admission.
        server = web.Server(self._answer, access_log=None, auto_decompress=False, lingering_time=_LINGER_SECONDS)
        self._runner = web.ServerRunner(server, shutdown_timeout=self._settings.finish_seconds)
        await self._runner.setup()
        assert self._runner.server is not None
        self.port = await self._listener.start(self._runner.server, self._settings.host, self._settings.port)
        self.serving = True
        log.info("serving admissions", extra=logs.fields(port=self.port))

    async def stop(self) -> None:
        """Drain: serve until requests stop, finish those in progress, and close."""
        self.draining = True
        log.info("draining", extra=logs.fields(seconds=self._settings.drain_seconds))
        await asyncio.sleep(self._settings.drain_seconds)
        self.serving = False
        await self._listener.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._listener.answering(request):
            handler = self._handlers.get(request.path)
            if handler is None:
                return web.Response(status=404, text="there is no such webhook\n")
            if request.method != "POST":
                return web.Response(status=405, text="webhooks are called by POST\n", headers={"Allow": "POST"})
            return await handler(request)

    async def _admit(self, request: web.BaseRequest) -> web.Response:
        started, seconds = time.perf_counter(), _seconds(request.query_string)
        with self._bodies.share() as share:
            try:
                body = await share.read(request, min(seconds, _LIMITS.request_seconds))
                self._listener.received(request)
                review = admission_review.admission(body)
            except ReviewError as error:
                return self._reject(request.path, error)
            decision = await self._admission.decide(request.path, review, seconds)
            answer = admission_review.admitted(
                review.uid, patch=decision.patch, warnings=decision.warnings, denied=decision.denied
            )
            _log_decision(request.path, review, decision)
            if decision.dynakube is not None and not review.dry_run:
                self._metrics.count_pod(decision.dynakube, review.namespace or "", decision.outcome, decision.reason)
            return self._respond(request.path, decision.outcome, decision.reason, answer, started)

    async def _convert(self, request: web.BaseRequest) -> web.Response:
        started, seconds = time.perf_counter(), _seconds(request.query_string)
        with self._bodies.share() as share:
            try:
                body = await share.read(request, min(seconds, _LIMITS.request_seconds))
                self._listener.received(request)
                review = admission_review.conversion(body)
            except ReviewError as error:
                return self._reject(CONVERT, error)
            outcome, reason, answer = await conversion.answer(review)
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


@functools.lru_cache(16)
def _seconds(query: str) -> float:
    """Return the timeout of a request by its query, less the time for the way back."""
    try:
        timeout = durations.parse(dict(urllib.parse.parse_qsl(query))["timeout"])
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
