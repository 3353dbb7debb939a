"""Bodies of requests, within a bound for each and one for all that are being answered.

    OversizeError    larger than anything an API server sends (413)
    BusyError        together with the bodies that are being answered it is too much (503)
    LateError        it did not come in time (408)

A `Content-Length` is counted before anything is read, and a chunked body as it comes. aiohttp must not decompress: a
body of a kilobyte could become one of a gigabyte.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from oneagent.webhook.admission_review import BusyError, LateError, OversizeError, ReviewError

BODY_BYTES: Final = 8 << 20
TOTAL_BYTES: Final = 32 << 20


class BodyBudget:
    """For one event loop."""

    def __init__(self, total_bytes: int = TOTAL_BYTES, body_bytes: int = BODY_BYTES) -> None:
        self._total, self.body_bytes = total_bytes, body_bytes
        self.used = 0

    @contextlib.contextmanager
    def share(self) -> Iterator[BodyShare]:
        """The share of one request, which is given back at its end."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self.used -= share.size

    def take(self, size: int) -> None:
        if self.used + size > self._total:
            raise BusyError(f"at most {self._total} bytes of requests are answered at once: try again")
        self.used += size


@dataclass(slots=True)
class BodyShare:
    budget: BodyBudget
    size: int = 0

    async def read(self, request: web.BaseRequest, seconds: float) -> bytes:
        """Read the body; `ReviewError`."""
        self._grow(request.content_length or 0)
        try:
            if request.content.is_eof():
                # It came with the headers, as nearly all do, and needs neither a timer nor a copy.
                body = request.content.read_nowait()
                self._grow(len(body))
                return body
            return await self._read_chunks(request, seconds)
        except TimeoutError as error:
            raise LateError("the body did not come in time") from error
        except web.RequestPayloadError as error:
            raise ReviewError(f"the body cannot be read: {error}") from error

    async def _read_chunks(self, request: web.BaseRequest, seconds: float) -> bytes:
        body = bytearray()
        async with asyncio.timeout(seconds):
            async for chunk in request.content.iter_any():
                self._grow(len(body) + len(chunk))
                body += chunk
        return bytes(body)

    def _grow(self, size: int) -> None:
        """Hold this many bytes at least."""
        if size > self.budget.body_bytes:
            raise OversizeError(f"the body is too large: at most {self.budget.body_bytes} bytes are read")
        if size > self.size:
            self.budget.take(size - self.size)
            self.size = size
