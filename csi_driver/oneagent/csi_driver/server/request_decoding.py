"""Requests from bytes to messages, bounded before anything is built from them.

What a pod's author writes into a volume's attributes arrives here. A parsed message can be many times larger than its
bytes: each empty string of a list takes two bytes on the wire and sixteen in memory. So gRPC refuses messages over
`MAX_MESSAGE_BYTES` without reading them, and what is over `MAX_REQUEST_BYTES` is refused without being parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from oneagent.csi_driver.server.errors import InvalidRequestError

MAX_MESSAGE_BYTES: Final = (1 << 20) + (16 << 10)
"""A MiB of attributes and the rest of a request: gRPC has a message more than four times in memory as it arrives."""
MAX_REQUEST_BYTES: Final = 128 << 10
"""Twice the longest list of containers."""


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """Takes the place of a message that is not parsed."""

    problem: str

    def to_error(self) -> InvalidRequestError:
        return InvalidRequestError("request", self.problem)


def bounded(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer for gRPC that returns a `RefusedRequest` for what it does not parse."""

    def parse_bounded(content: bytes) -> Any:
        if len(content) > MAX_REQUEST_BYTES:
            return RefusedRequest(f"has {len(content)} bytes, and at most {MAX_REQUEST_BYTES} are accepted")
        try:
            return parse(content)
        except DecodeError:
            return RefusedRequest("is no valid message")

    return parse_bounded
