"""The dashboard in the types that Grafana publishes of its schema: fields, their types, and names of choices.

The types come from `grafana-foundation-sdk`, which Grafana generates from the schema of one of its releases. It decodes
whatever it knows and passes over the rest, so what it would pass over is found by writing the dashboard again.
"""

from __future__ import annotations

import copy
import enum
import json
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models import dashboard

from tests.unit.chart.test_monitoring import DASHBOARD

TEXT: Final[dict[str, Any]] = json.loads(DASHBOARD.read_text())
_UNIONS: Final = (typing.Union, types.UnionType)


def faults(text: dict[str, Any]) -> list[str]:
    """Return what in a dashboard differs from the schema, one line each."""
    plugins.register_default_plugins()
    decoded = dashboard.Dashboard.from_json(text)
    written = json.loads(encoder.JSONEncoder().encode(decoded))
    return [*_unknown(text, written, ""), *_of_fields(decoded, "")]


def _unknown(before: Any, after: Any, path: str) -> Iterator[str]:
    """The fields that are lost when it is written again, and values that change."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from _unknown(value, after[key], f"{path}.{key}")
            elif value is not None:
                yield f"{path}.{key} is no field"
    elif isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _unknown(one, other, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {before!r} is read as {after!r}"


def _of_fields(value: object, path: str) -> Iterator[str]:
    for name, hint in typing.get_type_hints(type(value)).items():
        yield from _of_value(getattr(value, name), hint, f"{path}.{name}")


def _of_value(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Compare a value with its annotation, which says more than the decoder checks."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        if value is None and types.NoneType in arguments:
            return
        tried = [list(_of_value(value, argument, path)) for argument in arguments if argument is not types.NoneType]
        if all(tried):
            yield from tried[0]
    elif origin is list and isinstance(value, list):
        for index, one in enumerate(value):
            yield from _of_value(one, arguments[0], f"{path}[{index}]")
    elif origin is dict and isinstance(value, dict):
        for key, one in value.items():
            yield from _of_value(one, arguments[1], f"{path}.{key}")
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{path}: {value!r} is none of {arguments}"
    else:
        yield from _of_class(value, object if hint is Any else origin or hint, path)


def _of_class(value: Any, expected: type, path: str) -> Iterator[str]:
    if issubclass(expected, enum.Enum):
        if value not in (choices := [member.value for member in expected]):
            yield f"{path}: {value!r} is none of {choices}"
    elif not isinstance(value, (int, float) if expected is float else expected) or (
        isinstance(value, bool) and expected in (int, float)
    ):
        yield f"{path}: {value!r} is no {expected.__name__}"
    elif type(value).__module__.startswith("grafana_foundation_sdk"):
        # A panel's options and its queries are of classes that its type names.
        yield from _of_fields(value, path)


def test_the_dashboard_is_as_in_grafanas_schema() -> None:
    assert faults(TEXT) == []


def _panel(text: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(panel for panel in text["panels"] if panel["type"] == kind)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda text: text.update(refesh="1m"), ".refesh is no field"),
        (lambda text: text.update(editable="yes"), "'yes' is no bool"),
        (lambda text: _panel(text, "stat")["options"].update(colorMode="values"), "'values' is none of"),
        (lambda text: _panel(text, "stat")["fieldConfig"]["defaults"].update(units="s"), ".units is no field"),
        (lambda text: _panel(text, "timeseries")["targets"][0].update(expression="up"), ".expression is no field"),
        (lambda text: _panel(text, "timeseries")["gridPos"].update(w="12"), "'12' is no int"),
        (lambda text: text["templating"]["list"][1].update(type="queries"), "'queries' is none of"),
    ],
)
def test_a_dashboard_that_grafana_would_read_otherwise_is_found(
    spoil: Callable[[dict[str, Any]], None], fault: str
) -> None:
    spoilt = copy.deepcopy(TEXT)
    spoil(spoilt)
    assert fault in "\n".join(faults(spoilt))
