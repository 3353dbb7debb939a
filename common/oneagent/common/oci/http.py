"""Responses of registries, of the documented form.

Errors are those of `http.errors`.
"""

from __future__ import annotations

from typing import TypeVar

from oneagent.common import foreign_json
from oneagent.common.http import errors

_T = TypeVar("_T")


def decode(body: bytes, expected: type[_T], where: str) -> _T:
    """Decode a JSON body; the error names the field and never a value."""
    try:
        return foreign_json.decode(body, expected)
    except foreign_json.DocumentError as error:
        raise errors.UnexpectedResponseError(f"{where}: not the documented response: {error}") from error
