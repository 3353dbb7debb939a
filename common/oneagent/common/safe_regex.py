"""Regular expressions from users, matched in linear time by Google's RE2.

Python's `re` backtracks: `(a+)+$` takes 2^n steps for a text of n letters. RE2 has no backtracking, so no pattern can
stall a process, and its syntax is that of Go. Look-ahead, look-behind and back-references do not exist in it.

The library adds 2.8 MiB of resident memory, 0.3 MiB of it private, so it is imported with the first pattern.
"""

from __future__ import annotations

from typing import Final, Protocol

_MAX_PATTERN: Final = 1000
_MAX_BYTES: Final = 256 << 10
"""Memory of one compiled pattern, so that a list of hostile ones stays small."""
_SYNTAX: Final = "https://github.com/google/re2/wiki/Syntax"


class Pattern(Protocol):
    """The part of `re.Pattern` that callers need."""

    @property
    def pattern(self) -> str: ...

    def search(self, text: str, /) -> object | None: ...


def compile(pattern: str) -> Pattern:
    """Compile a pattern; `ValueError` names the pattern, the reason and the remedy."""
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"a pattern has {len(pattern)} characters: shorten it to {_MAX_PATTERN}")
    import re2

    options = re2.Options()
    options.max_mem = _MAX_BYTES
    options.log_errors = False
    try:
        compiled: Pattern = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise ValueError(f"{pattern!r} is not a regular expression of RE2 ({reason}): see {_SYNTAX}") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{pattern!r} is not Unicode text: remove the lone surrogates") from error
    return compiled
