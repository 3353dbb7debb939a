"""Lines `NAME=value` of the files that the preload library reads, and lists `key=value,key=value` in their values.

Values reach them from pods and Secrets, so from users. A line break would add a variable, and a comma an item of a
list: the former is removed, and the latter is percent-encoded, as readers of the lists expect (W3C Baggage).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from oneagent.common.agents.pod_files import to_single_line

RESOURCE_ATTRIBUTES: Final = "OTEL_RESOURCE_ATTRIBUTES"

_LINE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_ENCODED: Final = re.compile(r"[^A-Za-z0-9_.~/:@ !$&'()*+?#\[\]^`{|}-]")
_DECODED: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


def render(variables: Mapping[str, str]) -> str:
    """Return the text of a file; a variable without a value has no line."""
    lines = ((name, to_single_line(value)) for name, value in variables.items())
    return "".join(f"{name}={value}\n" for name, value in lines if value)


def parse(text: str) -> dict[str, str]:
    """Return the variables of a file. Of a name the first line counts; other lines are comments."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        if match := _LINE.fullmatch(line.removesuffix("\r")):
            found.setdefault(match[1], match[2])
    return found


def join(items: Iterable[tuple[str, str]]) -> str:
    """Return a list of items with a value; keys have to be plain."""
    cleaned = ((key, to_single_line(value)) for key, value in items)
    return ",".join(f"{key}={_encode(value)}" for key, value in cleaned if value)


def split(text: str) -> dict[str, str]:
    """Return the items of a list; of a key the first counts."""
    found: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if equals:
            found.setdefault(key.strip(), _DECODED.sub(_decode, value.strip()))
    return found


def _encode(value: str) -> str:
    return _ENCODED.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "replace")), value)


def _decode(match: re.Match[str]) -> str:
    return bytes.fromhex(match[0].replace("%", "")).decode(errors="replace")
