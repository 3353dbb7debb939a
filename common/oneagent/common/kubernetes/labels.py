"""Keys and values of labels, by the rules of the API server."""

from __future__ import annotations

import re
from typing import Final

_WORD: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_PREFIX: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_KEY: Final = re.compile(rf"((?=.{{1,253}}/){_PREFIX}/)?{_WORD}")
_VALUE: Final = re.compile(rf"({_WORD})?")

KEY_FORM: Final = "name or example.com/name, with at most 63 characters in the name"
VALUE_FORM: Final = "at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"


def is_key(text: object) -> bool:
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def is_value(text: object) -> bool:
    return isinstance(text, str) and _VALUE.fullmatch(text) is not None
