"""JSON patches (RFC 6902) for labels and annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def metadata(obj: Mapping[str, Any], section: str, desired: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Return the patch that gives `labels` or `annotations` these values; None removes a key."""
    place = f"/metadata/{section}"
    present = (obj.get("metadata") or {}).get(section)
    changed = {key: value for key, value in desired.items() if (present or {}).get(key) != value}
    if not changed:
        return []
    if not present:
        return [{"op": "add", "path": place, "value": changed}]
    return [
        {"op": "remove", "path": f"{place}/{escaped(key)}"}
        if value is None
        else {"op": "add", "path": f"{place}/{escaped(key)}", "value": value}
        for key, value in changed.items()
    ]


def escaped(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
