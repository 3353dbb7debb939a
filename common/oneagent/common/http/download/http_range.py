"""Reads an answer to "give me the rest": may its bytes be put behind the ones we have?

Only a server that proves it still has the same file may continue is_temporary (RFC 9110 sections 13.1.5, 14.4 and
15.3.7): the request carries the validator of the first answer in `If-Range`, and a 206 must begin at exactly
the byte that was asked for, end at the last one, and be of the same length and validator.
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
    """An answer that does not fit behind the bytes we received: they are worthless, the next try begins anew."""

    is_transient = True


@dataclass(frozen=True, slots=True)
class Received:
    """What an earlier answer left us with. `total` is `None` where the server did not say."""

    size: int = 0
    total: int | None = None
    validator: str = ""
    """`ETag` or `Last-Modified` of that answer; without one nothing can be resumed."""


def request_headers(received: Received) -> dict[str, str]:
    """The request's headers for what is missing."""
    if not (received.size and received.validator):
        return {}
    return {"Range": f"bytes={received.size}-", "If-Range": received.validator}


def plan(response: httpx.Response, received: Received) -> Received:
    """What we have once this answer's body begins: all of `have`, or nothing if it starts anew.

    The status must be 200, 206 or 416. After a 416 that says we have everything no byte may be read.
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
        raise RangeMismatchError(f"{where}: sent a part that was not asked for (Content-Range: {content_range[:80]!r})")
    first, last, whole = (int(number) for number in match.groups())
    if first != received.size or last != whole - 1 or whole != (received.total or whole):
        raise RangeMismatchError(f"{where}: byte {received.size} to the end was asked for, {content_range[:80]!r} came")
    if _content_length(response) not in (None, last - first + 1):
        raise RangeMismatchError(
            f"{where}: Content-Length and Content-Range {content_range[:80]!r} contradict each other"
        )
    if received.validator.startswith('"') and response.headers.get("ETag", received.validator) != received.validator:
        raise RangeMismatchError(f"{where}: another file than the one that was begun")
    return Received(received.size, whole, received.validator)


def _content_length(response: httpx.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def _validator(response: httpx.Response) -> str:
    """Something `If-Range` accepts: a weak ETag (`W/"…"`) is not."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
