"""The one decoder of JSON from outside: of tenants, registries, mirrors, unverified tokens and users' objects.

A parser of JSON fails in more ways than by `ValueError`: on deep nesting by `RecursionError`, on numbers and dates by
`OverflowError`. Here each of them is a `DocumentError`, which the caller turns into an error of its own. Size, depth
and count are checked before anything is built from the text, in time that grows with its length only.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from oneagent.common import typed_json

MAX_BYTES: Final = 8 << 20
MAX_DEPTH: Final = 64
MAX_PARTS: Final = 500_000
"""Strings, objects, lists and commas."""

# Possessive, so that no way back is kept in memory. A quote by itself begins a string that does not end.
_PART: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
_T = TypeVar("_T")


class DocumentError(ValueError):
    """A document that cannot be decoded. The text names the field, and never a value."""


def decode(document: bytes | str, into: type[_T], *, max_bytes: int = MAX_BYTES, max_parts: int = MAX_PARTS) -> _T:
    """Return a document as a type that msgspec knows; `DocumentError` for whatever may be wrong with it."""
    try:
        body = document.encode() if isinstance(document, str) else document
        if len(body) > max_bytes:
            raise DocumentError(f"more than {max_bytes:,} bytes")
        _check_shape(body, max_parts)
        if not body.isascii():
            body.decode()  # Fields that nobody reads are not checked below.
        return typed_json.decode(body, into)
    except DocumentError:
        raise
    except msgspec.MsgspecError as error:
        raise DocumentError(str(error)) from error
    except Exception as error:
        raise DocumentError(f"not readable as JSON ({type(error).__name__})") from error


def _check_shape(body: bytes, max_parts: int) -> None:
    depth = 0
    for number, part in enumerate(_PART.finditer(body)):
        if number >= max_parts:
            raise DocumentError(f"more than {max_parts:,} values")
        match part[0]:
            case b"[" | b"{":
                depth += 1
                if depth > MAX_DEPTH:
                    raise DocumentError(f"nested more than {MAX_DEPTH} deep")
            case b"]" | b"}":
                depth -= 1
            case b'"':
                raise DocumentError("a string does not end")
            case _:
                pass
