"""Range requests: headers that ask for the rest of a file, and checks of the response.

Only a server that proves it still has the same file may continue a download (RFC 9110 sections 13.1.5, 14.4 and
15.3.7). The request carries the validator of the first response in `If-Range`. A 206 must begin at exactly the
requested byte, end at the last one, and have the same length and validator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import httpx2 as httpx

from oneagent.common.http import errors

_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII | re.IGNORECASE)
_UNSATISFIED: Final = re.compile(r"bytes \*/(\d{1,18})", re.ASCII | re.IGNORECASE)


class RangeMismatchError(errors.UnexpectedResponseError):
    """A response that does not continue the received bytes: they are dropped, the next attempt starts from zero."""

    is_transient = True


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes of earlier responses. `total` is `None` if the server did not send it."""

    size: int = 0
    total: int | None = None
    validator: str = ""
    """`ETag` or `Last-Modified` of that response; without one nothing can be resumed."""


def request_headers(received: Received) -> dict[str, str]:
    """Return the request headers for the missing bytes."""
    if not (received.size and received.validator):
        return {}
    return {"Range": f"bytes={received.size}-", "If-Range": received.validator}


def plan(response: httpx.Response, received: Received) -> Received:
    """Return the bytes that this response's body continues: all of `received`, or none.

    The status must be 200, 206 or 416. After a 416 for a complete file no byte may be read.
    """
    if response.status_code == 200:
        return Received(0, _content_length(response), _validator(response))
    where, content_range = errors.redact_url(str(response.url)), response.headers.get("Content-Range", "")
    if response.status_code == 416:
        total = _UNSATISFIED.fullmatch(content_range)
        if (
            not total
            or not received.size
            or int(total[1]) != received.size
            or received.total not in (None, received.size)
        ):
            raise RangeMismatchError(
                f"{where}: refuses to continue at byte {received.size} (Content-Range: {content_range[:80]!r})"
            )
        return Received(received.size, received.size, received.validator)
    match = _RANGE.fullmatch(content_range)
    if not (received.size and received.validator and match):
        raise RangeMismatchError(
            f"{where}: sent a range that was not requested (Content-Range: {content_range[:80]!r})"
        )
    first, last, whole = (int(number) for number in match.groups())
    if first != received.size or last != whole - 1 or whole != (received.total or whole):
        raise RangeMismatchError(
            f"{where}: byte {received.size} to the end was requested, {content_range[:80]!r} was sent"
        )
    if _content_length(response) not in (None, last - first + 1):
        raise RangeMismatchError(
            f"{where}: Content-Length and Content-Range {content_range[:80]!r} contradict each other"
        )
    if received.validator.startswith('"') and response.headers.get("ETag", received.validator) != received.validator:
        raise RangeMismatchError(f"{where}: the file changed during the download")
    return Received(received.size, whole, received.validator)


def _content_length(response: httpx.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def _validator(response: httpx.Response) -> str:
    """Return a validator that `If-Range` accepts: a weak ETag (`W/"…"`) is not."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
