"""Decoders of JSON into types, each built while its module is imported.

msgspec collects what it has to know of a type at the first use, and not under a lock: where several threads decode a
new type at the same moment, the process may end by a segmentation fault. With 0.22.0, 40 new types, four threads and
`sys.setswitchinterval(1e-5)`, 183 of 200 processes ended so, after `msgspec.json.decode(b'{"a":1}', type=...)` for
types made by `msgspec.defstruct` with a nested one. A type that was not prepared gets its decoder under a lock.
"""

from __future__ import annotations

import threading
from typing import Any, Final, TypeVar, overload

import msgspec

_T = TypeVar("_T")

_building: Final = threading.Lock()
_decoders: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}


def prepare(*types: Any) -> None:
    """Build the decoders of these types. Called by a module for its own types, while it is imported."""
    with _building:
        _decoders.update((each, msgspec.json.Decoder(each)) for each in types)


@overload
def decode(content: bytes | str | msgspec.Raw, into: type[_T]) -> _T: ...
@overload
def decode(content: bytes | str | msgspec.Raw, into: Any) -> Any: ...
def decode(content: bytes | str | msgspec.Raw, into: Any) -> Any:
    """Return JSON as a type. Raises what msgspec raises."""
    decoder = _decoders.get(into)
    if decoder is None:
        prepare(into)
        decoder = _decoders[into]
    return decoder.decode(content)


def prepared_types() -> list[Any]:
    return list(_decoders)
