"""Regular expressions from users, matched in linear time by Google's RE2.

Python's `re` backtracks: `(a+)+$` takes 2^n steps for a text of n letters. RE2 has no backtracking, so no pattern can
stall a process, and its syntax is that of Go. Look-ahead, look-behind and back-references do not exist in it.

All patterns of a list have one budget: their number, and the size of what they are compiled to. They become one
program, so that a search costs the same however many there are.

The library adds 2.8 MiB of resident memory, 0.3 MiB of it private, so it is imported with the first pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

MAX_PATTERNS: Final = 200
_MAX_PATTERN: Final = 1000
_MAX_INSTRUCTIONS: Final = 10_000
"""Of all patterns of a list, compiled; a usual pattern takes about twenty."""
_MAX_BYTES: Final = 256 << 10
"""Memory of one compiled pattern"""
_MAX_BYTES_OF_ALL: Final = 1 << 20
"""Memory of all of a list, with the states that searches leave in it"""
_SYNTAX: Final = "https://github.com/google/re2/wiki/Syntax"


class Pattern(Protocol):
    """The part of `re.Pattern` that callers need."""

    @property
    def pattern(self) -> str: ...

    def search(self, text: str, /) -> object | None: ...


class SizedPattern(Pattern, Protocol):
    @property
    def programsize(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PatternSet:
    """Patterns of which one has to match; equal if they are the same text."""

    patterns: tuple[str, ...] = ()
    _compiled: Pattern | None = field(default=None, compare=False, repr=False)

    def search(self, text: str) -> bool:
        return self._compiled is not None and self._compiled.search(text) is not None


def compile_all(patterns: Sequence[str]) -> PatternSet:
    """Compile the patterns of a list; `ValueError` names the pattern or the bound, and the remedy."""
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"it has {len(patterns)} patterns: use {MAX_PATTERNS} at most")
    size = 0
    for pattern in patterns:
        size += compile(pattern).programsize
        if size > _MAX_INSTRUCTIONS:
            raise ValueError(
                f"its patterns are too large together, from {pattern[:80]!r} on: use fewer, or smaller repetitions"
            )
    if not patterns:
        return PatternSet()
    alternatives = "|".join(f"(?:{pattern})" for pattern in patterns)
    return PatternSet(tuple(patterns), _compile(alternatives, _MAX_BYTES_OF_ALL))


def compile(pattern: str) -> SizedPattern:
    """Compile a pattern; `ValueError` names the pattern, the reason and the remedy."""
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"a pattern has {len(pattern)} characters: shorten it to {_MAX_PATTERN}")
    return _compile(pattern, _MAX_BYTES)


def _compile(pattern: str, max_bytes: int) -> SizedPattern:
    import re2

    options = re2.Options()
    options.max_mem = max_bytes
    options.log_errors = False
    options.never_capture = True  # Of two patterns, each may have a group of the same name.
    try:
        compiled: SizedPattern = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise ValueError(f"{pattern!r} is not a regular expression of RE2 ({reason}): see {_SYNTAX}") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{pattern!r} is not Unicode text: remove the lone surrogates") from error
    return compiled
