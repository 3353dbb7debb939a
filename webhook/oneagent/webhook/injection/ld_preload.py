"""`LD_PRELOAD` of a container: the agent's library behind whatever is there already.

The separator is a colon, or a space if the value has spaces. A value that comes from elsewhere (`valueFrom`) is not
known here: its variable gets another name, and `LD_PRELOAD` refers to that by `$(…)`. If what it comes from is
optional, an empty variable of that name stands before it, since kubelet leaves a reference to a variable that is not
there as it is, and the loader would complain of it in every process. Of variables with the same name the last one
that is there counts, as it does for kubelet. What `envFrom` brings can't be seen: ours hides it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, Final

from oneagent.webhook.injection.pod_model import Variable

NAME: Final = "LD_PRELOAD"
ORIGINAL: Final = "DT_ORIGINAL_LD_PRELOAD"

_SEPARATORS: Final = re.compile("[: ]+")


def operations(place: str, env: Sequence[Variable], library: str) -> list[dict[str, Any]]:
    """What changes below `place`, a list of variables that is not empty; nothing if the library is there already."""
    found = [index for index, variable in enumerate(env) if variable.name == NAME]
    if not found:
        return [{"op": "add", "path": f"{place}/-", "value": {"name": NAME, "value": library}}]
    last = env[found[-1]]
    if last.value_from and not last.value:
        return _from_elsewhere(place, found, env, library)
    value = last.value or ""
    if library in _SEPARATORS.split(value):
        return []
    extended = f"{value}{_separator(value)}{library}"
    change = "add" if last.value is None else "replace"
    return [{"op": change, "path": f"{place}/{found[-1]}/value", "value": extended}]


def _separator(value: str) -> str:
    if not value or value.endswith((":", " ")):
        return ""
    return " " if " " in value else ":"


def _from_elsewhere(place: str, found: Sequence[int], env: Sequence[Variable], library: str) -> list[dict[str, Any]]:
    original = _free_name({variable.name for variable in env})
    done: list[dict[str, Any]] = [
        {"op": "replace", "path": f"{place}/{index}/name", "value": original} for index in found
    ]
    # Right behind the last, so that a later variable that refers to LD_PRELOAD still finds it before itself.
    ours = {"name": NAME, "value": f"$({original}):{library}"}
    done.append({"op": "add", "path": f"{place}/{found[-1] + 1}", "value": ours})
    if all(_is_optional(env[index]) for index in found):
        done.append({"op": "add", "path": f"{place}/{found[0]}", "value": {"name": original, "value": ""}})
    return done


def _is_optional(variable: Variable) -> bool:
    sources = (variable.value_from or {}).values()
    return any(isinstance(source, dict) and source.get("optional") is True for source in sources)


def _free_name(taken: set[str]) -> str:
    numbered = (f"{ORIGINAL}_{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain((ORIGINAL,), numbered) if name not in taken)
