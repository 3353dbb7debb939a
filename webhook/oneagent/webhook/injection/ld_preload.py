"""`LD_PRELOAD` of a container: the agent's library after an existing value.

The separator is a colon, or a space if the value has spaces. A value from `valueFrom` is not known here: its variable
is renamed, and `LD_PRELOAD` refers to it by `$(…)`. If its source is optional, an empty variable of that name precedes
it. Otherwise kubelet would leave the reference to a missing variable unexpanded, and the loader would report it in
every process. Of variables with the same name the last one counts, as it does for kubelet. Variables of `envFrom`
cannot be seen; ours overrides them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from oneagent.common.agents import oneagent
from oneagent.webhook.injection.pod_model import Variable

NAME: Final = "LD_PRELOAD"
ORIGINAL: Final = oneagent.ORIGINAL_LD_PRELOAD

_SEPARATORS: Final = re.compile("[: ]+")
_CHAIN: Final = re.compile(rf"\$\(({ORIGINAL}(?:_[0-9]+)?)\):")


def operations(pointer: str, env: Sequence[Variable], library: str) -> list[dict[str, Any]]:
    """Return the changes of a non-empty `env`; none if it already has the library."""
    indexes = [index for index, variable in enumerate(env) if variable.name == NAME]
    if not indexes:
        return [{"op": "add", "path": f"{pointer}/-", "value": {"name": NAME, "value": library}}]
    last = env[indexes[-1]]
    if last.value_from and not last.value:
        return _chain_value_from(pointer, indexes, env, library)
    value = last.value or ""
    if library in _SEPARATORS.split(value):
        return []
    extended = f"{value}{_separator(value)}{library}"
    change = "add" if last.value is None else "replace"
    return [{"op": change, "path": f"{pointer}/{indexes[-1]}/value", "value": extended}]


def without(env: Sequence[Mapping[str, Any]], libraries: Collection[str]) -> list[Mapping[str, Any]]:
    """Return the variables as they were before `operations`; as they are if none of these libraries was added."""
    index = max((index for index, variable in enumerate(env) if variable["name"] == NAME), default=-1)
    value = (env[index].get("value") or "") if index >= 0 else ""
    *_, last = _SEPARATORS.split(value)
    if last not in libraries:
        return list(env)
    before = value.removesuffix(last)
    if match := _CHAIN.fullmatch(before):
        return _unchain([variable for number, variable in enumerate(env) if number != index], match[1])
    left = [{**env[index], "value": before.rstrip(": ")}] if before else []
    return [*env[:index], *left, *env[index + 1 :]]


def _unchain(env: list[Mapping[str, Any]], original: str) -> list[Mapping[str, Any]]:
    empty = {"name": original, "value": ""}
    if empty in env:
        env.remove(empty)
    return [{**variable, "name": NAME} if variable["name"] == original else variable for variable in env]


def _separator(value: str) -> str:
    if not value or value.endswith((":", " ")):
        return ""
    return " " if " " in value else ":"


def _chain_value_from(
    pointer: str, indexes: Sequence[int], env: Sequence[Variable], library: str
) -> list[dict[str, Any]]:
    original = _free_name({variable.name for variable in env})
    patch: list[dict[str, Any]] = [
        {"op": "replace", "path": f"{pointer}/{index}/name", "value": original} for index in indexes
    ]
    # Right behind the last, so that a later variable that refers to LD_PRELOAD still finds it before itself.
    entry = {"name": NAME, "value": f"$({original}):{library}"}
    patch.append({"op": "add", "path": f"{pointer}/{indexes[-1] + 1}", "value": entry})
    if all(_is_optional(env[index]) for index in indexes):
        patch.append({"op": "add", "path": f"{pointer}/{indexes[0]}", "value": {"name": original, "value": ""}})
    return patch


def _is_optional(variable: Variable) -> bool:
    sources = (variable.value_from or {}).values()
    return any(isinstance(source, dict) and source.get("optional") is True for source in sources)


def _free_name(used: set[str]) -> str:
    container_numbers = (f"{ORIGINAL}_{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain((ORIGINAL,), container_numbers) if name not in used)
