"""Statuses, errors and message framing for both ends of a unary gRPC call.

The sidecars make and answer three kinds of tiny unary calls over a unix socket. grpcio does that in 39 MiB of
resident memory (it loads asyncio, TLS and a C core, and starts nine threads); h2 with these modules needs 22.
Two sidecars run on every node, commonly limited to 30 MiB each, so they speak gRPC over h2 and keep only what
such calls need: no compression, no streams, no TLS, messages up to `MESSAGE_LIMIT_BYTES`.
grpc's PROTOCOL-HTTP2 document specifies it; tests talk to grpcio and to grpc-go.

    RpcError        any failed call, with the status that the other side gave or that the failure amounts to
"""

from __future__ import annotations

import enum
import re
import struct
from typing import Final

_PREFIX: Final = struct.Struct(">BI")
MESSAGE_LIMIT_BYTES: Final = 2**16 - 1 - _PREFIX.size
"""Bytes in a stream's first flow-control window, so that no end ever has to enlarge one."""


class StatusCode(enum.IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def parse(cls, text: str) -> StatusCode:
        """The status of a `grpc-status` header; anything that is none is UNKNOWN."""
        return next((status for status in cls if text == str(int(status))), cls.UNKNOWN)


class RpcError(Exception):
    """A call that did not end with OK."""

    def __init__(self, status: StatusCode, detail: str) -> None:
        super().__init__(f"{status.name}: {detail}")
        self.status = status
        self.detail = detail


def frame(message: bytes) -> bytes:
    """A message as gRPC puts it into a body: not compressed, with its length before it."""
    return _PREFIX.pack(0, len(message)) + message


def too_long(start: bytes | bytearray) -> bool:
    """Return True if, by the start of its body, the end of a message can never arrive."""
    return len(start) >= _PREFIX.size and _PREFIX.unpack_from(start)[1] > MESSAGE_LIMIT_BYTES


def unframe(body: bytes | bytearray) -> bytes:
    """The only message of a body."""
    if len(body) < _PREFIX.size:
        raise RpcError(StatusCode.INTERNAL, f"a body of {len(body)} bytes holds no message")
    compressed, length = _PREFIX.unpack_from(body)
    if compressed:
        raise RpcError(StatusCode.UNIMPLEMENTED, "compressed messages are not understood")
    if length > MESSAGE_LIMIT_BYTES:
        limit = f"more than {MESSAGE_LIMIT_BYTES} are not understood"
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"a message of {length} bytes has come; {limit}")
    if length != len(body) - _PREFIX.size:
        raise RpcError(StatusCode.INTERNAL, f"a message of {length} bytes came in a body of {len(body)}")
    return bytes(body[_PREFIX.size :])


def quote(detail: str) -> str:
    """A `grpc-message` header's value: percent-encoded UTF-8, as headers carry printable ASCII only."""
    return "".join(chr(b) if 0x20 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in detail.encode())


def unquote(value: str) -> str:
    """The text of a `grpc-message` header; what is not UTF-8 is replaced, not refused."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), value.encode())
    return raw.decode(errors="replace")
