"""Regular expressions that users write, for texts as short as the name of a namespace.

Python tries one way of matching after the other, so a pattern may take for ever: of `(a+)+$` there are 2^n for a text
of n letters. How many there are at most, and how many steps they take, can be counted in the pattern alone, since the
text is short. A pattern with too many steps is refused before it is used; what such expressions are usually written
for has a few hundred. What cannot be counted, as looking ahead, is refused as well.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

LONGEST_TEXT: Final = 63
"""Characters of a text to be searched."""
_MOST_STEPS: Final = 1_000_000
_MOST_REPEATS: Final = 1000
_LONGEST_PATTERN: Final = 1000

_TOKEN: Final = re.compile(
    r"\\."  # an escape
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]"  # a set
    r"|(?P<flag>\(\?i\))|(?P<open>\((?:\?:|\?P<\w+>)?(?!\?))|(?P<special>\(\?)|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<repeat>(?:[*+?]|\{(?:(?P<exactly>\d+)|(?P<least>\d*),(?P<most>\d*))\})[?+]?)"
    r"|.",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Effort:
    """At most, from one place in a text."""

    ways: int
    steps: int

    def then(self, other: _Effort) -> _Effort:
        return _Effort(self.ways * other.ways, self.steps + self.ways * other.steps)

    def alternatively(self, other: _Effort) -> _Effort:
        return _Effort(self.ways + other.ways, self.steps + other.steps)

    def repeated(self, least: int, most: int) -> _Effort:
        """What matches nothing is not tried again beyond `least`, so a text's length is enough for all the others."""
        ways, tried = 0, _NOTHING
        for count in range(max(least, min(most, LONGEST_TEXT + 1)) + 1):
            if count >= least:
                ways += tried.ways
            if tried.steps > _MOST_STEPS:
                break
            tried = tried.then(_Effort(self.ways, self.steps + 1))
        return _Effort(min(ways, _MOST_STEPS + 1), tried.steps)


_NOTHING: Final = _Effort(1, 0)
_CHARACTER: Final = _Effort(1, 1)


@functools.lru_cache(maxsize=1000)
def compile(pattern: str) -> re.Pattern[str]:
    """A pattern that can be searched in texts up to `LONGEST_TEXT`; `ValueError` says why another one can't."""
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"a pattern may have {_LONGEST_PATTERN} characters, not {len(pattern)}")
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if _effort(pattern).steps > _MOST_STEPS:
        raise ValueError(f"{pattern!r} may take too long: use fewer of *, + and {{}}, and none within another")
    return compiled


def _effort(pattern: str) -> _Effort:
    """Of a pattern that Python takes."""
    # Of each open group the branches before this one; of this one what is before its last item; and that item.
    groups = [(_Effort(0, 0), _NOTHING, _NOTHING)]
    for token in _TOKEN.finditer(pattern):
        branches, before, last = groups.pop()
        match token.lastgroup:
            case "open":
                groups += [(branches, before.then(last), _NOTHING), (_Effort(0, 0), _NOTHING, _NOTHING)]
            case "close":
                inner = branches.alternatively(before.then(last))
                outer, earlier, _ = groups.pop()
                groups.append((outer, earlier, inner))
            case "bar":
                groups.append((branches.alternatively(before.then(last)), _NOTHING, _NOTHING))
            case "repeat":
                groups.append((branches, before, last.repeated(*_repeats(token))))
            case "special":
                raise ValueError(f"{pattern!r}: of what begins with (? there are only (?:…), (?P<name>…) and (?i)")
            case "flag":
                groups.append((branches, before, last))
            case _:
                groups.append((branches, before.then(last), _CHARACTER))
    ((branches, before, last),) = groups
    return branches.alternatively(before.then(last))


def _repeats(token: re.Match[str]) -> tuple[int, int]:
    """How often at least and at most."""
    kind = token["repeat"][0]
    if kind in "*+?":
        return int(kind == "+"), 1 if kind == "?" else LONGEST_TEXT + 1
    least = int(token["exactly"] or token["least"] or 0)
    most = int(token["exactly"] or token["most"] or max(least, LONGEST_TEXT + 1))
    if max(least, most) > _MOST_REPEATS:
        raise ValueError(f"{token['repeat']!r}: nothing may be repeated more than {_MOST_REPEATS} times")
    return least, most
