"""The server of admissions and conversions, over TLS.

A request that can be read is answered with 200, whatever happens; one that can't with 400 or 413 and the reason.
API servers hold connections open for 90 seconds after their last request: the server holds them longer, so that
it never closes one just when a request is on its way. While it drains it is not ready any more but answers all
that comes, and says in each answer that the connection ends with it.
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
_USUAL_SECONDS: Final = 10.0
_LONGEST_SECONDS: Final = 30.0
"""More than the API server allows anybody"""
_BACKLOG: Final = 1024


class Admission(Protocol):
    async def decide(self, path: str, request: Request, seconds: float) -> AdmissionDecision: ...


@dataclass(frozen=True, slots=True)
class Settings:
    host: str
    port: int
    """0 takes a free one."""
    drain_seconds: float = 5.0
    """How long requests go on coming once an endpoint is no longer ready."""
    finish_seconds: float = 15.0
    """How long requests that are being answered may take at the end."""


class Server:
    """For one event loop."""

    def __init__(self, settings: Settings, context: ssl.SSLContext, admission: Admission, metrics: Metrics) -> None:
        self._settings, self._context, self._admission, self._metrics = settings, context, admission, metrics
        self._runner: web.AppRunner | None = None
        self.port = settings.port
        """Where it listens, after `start`."""
        self.serving = False
        self.draining = False

    async def start(self) -> None:
        """Listen; `OSError` if the port is not to be had."""
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
        log.info("admissions are served", extra=logs.facts(port=self.port))

    async def stop(self) -> None:
        """Drain: serve until nobody sends requests here any more, finish those that are left, and close."""
        self.draining = True
        log.info("draining", extra=logs.facts(seconds=self._settings.drain_seconds))
        await asyncio.sleep(self._settings.drain_seconds)
        self.serving = False
        if self._runner is not None:
            await self._runner.cleanup()

    async def _admit(self, request: web.Request) -> web.Response:
        started, seconds = time.perf_counter(), _seconds(request)
        try:
            asked = admission_review.admission(await _read(request, seconds))
        except ReviewError as error:
            return self._refused(request.path, error)
        decision = await self._admission.decide(request.path, asked, seconds)
        answer = admission_review.admitted(
            asked.uid, patch=decision.patch, warnings=decision.warnings, denied=decision.denied
        )
        _tell(request.path, asked, decision)
        return self._answered(request.path, decision.outcome, decision.reason, answer, started)

    async def _convert(self, request: web.Request) -> web.Response:
        started = time.perf_counter()
        try:
            asked = admission_review.conversion(await _read(request, _seconds(request)))
        except ReviewError as error:
            return self._refused(CONVERT, error)
        outcome, reason, answer = conversion.answer(asked)
        return self._answered(CONVERT, outcome, reason, answer, started)

    def _answered(self, path: str, outcome: str, reason: str, body: bytes, started: float) -> web.Response:
        self._metrics.requests.labels(path, outcome, reason).inc()
        self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
        response = web.Response(body=body, content_type="application/json")
        if self.draining:
            response.force_close()
        return response

    def _refused(self, path: str, error: ReviewError) -> web.Response:
        self._metrics.requests.labels(path, "refused", str(error.status)).inc()
        log.warning("a request can't be answered", extra=logs.facts(path=path, status=error.status, reason=error))
        response = web.Response(status=error.status, text=f"{error}\n")
        response.force_close()  # what else comes on this connection is not worth reading
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
    """How long an answer is waited for, less what it needs for its way."""
    try:
        given = durations.parse(request.query["timeout"])
    except (KeyError, ValueError):
        given = _USUAL_SECONDS
    return max(0.1, min(given, _LONGEST_SECONDS) * 0.9 - 0.1)


def _tell(path: str, asked: Request, decision: AdmissionDecision) -> None:
    level = logging.INFO if decision.outcome in ("denied", "error") else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    fields = logs.facts(
        path=path,
        namespace=asked.namespace,
        name=asked.name,
        operation=asked.operation,
        outcome=decision.outcome,
        reason=decision.reason,
        denied=decision.denied.message if decision.denied else None,
        uid=asked.uid,
    )
    log.log(level, "decided", extra=fields)
