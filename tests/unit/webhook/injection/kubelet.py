"""What kubelet makes of a container's variables (its `makeEnvironmentVariables`), as far as pods here use it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.unit.webhook.injection.cases import Manifest

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


class MissingError(Exception):
    """The container can't be started: something that is not optional is not there."""


def environment(env: Sequence[Manifest], stored: Mapping[str, str]) -> dict[str, str]:
    """`stored` is what all ConfigMaps and Secrets hold, by key."""
    found: dict[str, str] = {}
    for variable in env:
        if value := variable.get("value"):
            found[variable["name"]] = _expanded(value, found)
        elif "valueFrom" in variable:
            (source,) = variable["valueFrom"].values()
            if "key" in source and source["key"] not in stored:
                if source.get("optional"):
                    continue
                raise MissingError(source["key"])
            found[variable["name"]] = stored[source["key"]] if "key" in source else source["fieldPath"]
        else:
            found[variable["name"]] = ""
    return found


def _expanded(value: str, known: Mapping[str, str]) -> str:
    def replaced(match: re.Match[str]) -> Any:
        if match[0] == "$$":
            return "$"
        return known.get(match[1], match[0])

    return _REFERENCE.sub(replaced, value)
