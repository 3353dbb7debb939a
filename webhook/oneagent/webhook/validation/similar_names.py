"""Guesses at misspelt names of feature flags and fields.

A guess never says the contrary: `oneagent-unprivileged` is not taken for `oneagent-privileged`, nor `proxy` for
`no-proxy`. So names are compared word by word. A word that only the misspelt name has may change its sense, so there
is no guess; one that only the right name has must not be a negation.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_ALIKE: Final = 0.66
"""Least ratio of two words that may be one"""
_SHORTEST: Final = 3
"""Letters of a word that may be short for another: `app` for `application`"""
_NEGATIONS: Final = frozenset(("disable", "ignore", "ignored", "no", "not", "skip", "without"))
_NEGATING_PREFIXES: Final = frozenset(("anti", "de", "dis", "in", "no", "non", "un"))
_CONTRARIES: Final = (("en", "dis"), ("dis", "en"), ("in", "ex"), ("ex", "in"), ("in", "de"), ("de", "in"))
"""Beginnings of words that say the contrary of each other: `enable` and `disable`"""


def find(name: str, candidates: Iterable[str], count: int = 1) -> list[str]:
    """Return up to `count` candidates that the name may mean, the most similar first."""
    close = difflib.get_close_matches(name, list(candidates), n=count + 3)
    return [candidate for candidate in close if has_same_sense(name, candidate)][:count]


def is_same(one: str, other: str) -> bool:
    """Return True if two words differ by no more than spelling, or one is short for the other."""
    longer, shorter = sorted((one, other), key=len, reverse=True)
    negated = longer.endswith(shorter) and longer.removesuffix(shorter) in _NEGATING_PREFIXES
    contrary = any(one.startswith(a) and other.startswith(b) for a, b in _CONTRARIES)
    if len(shorter) >= _SHORTEST and longer.startswith(shorter):
        return True
    return not negated and not contrary and difflib.SequenceMatcher(None, one, other).ratio() >= _ALIKE


def has_same_sense(one: str, other: str) -> bool:
    """Return True if `one` may be a misspelt `other`: no word of it says something else."""
    ours, theirs = _words(one), _words(other)
    ours, theirs = (
        list((Counter(ours) - Counter(theirs)).elements()),
        list((Counter(theirs) - Counter(ours)).elements()),
    )
    if "".join(ours) == "".join(theirs):
        return True
    for word in list(ours):
        if partner := next((other for other in theirs if is_same(word, other)), None):
            ours.remove(word)
            theirs.remove(partner)
    return not ours and not _NEGATIONS.intersection(theirs)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
