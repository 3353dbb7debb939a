"""Label selectors by the rules of the API server.

    FieldError   a selector that the API server would refuse: names the field, its value and the remedy

Source of the rules: the Kubernetes API reference for LabelSelector. All requirements must be met; an empty selector
matches everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from oneagent.common.kubernetes import fields

_VALUES_NEEDED: Final = ("In", "NotIn")
_OPERATORS: Final = (*_VALUES_NEEDED, "Exists", "DoesNotExist")


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: str
    values: frozenset[str]

    def met_by(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return self.key in labels and labels[self.key] in self.values
            case "NotIn":
                return self.key not in labels or labels[self.key] not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels

    def __str__(self) -> str:
        """Return it as kubectl takes it."""
        values = sorted(self.values)
        match self.operator:
            case "In":
                return f"{self.key}={values[0]}" if len(values) == 1 else f"{self.key} in ({','.join(values)})"
            case "NotIn":
                return f"{self.key} notin ({','.join(values)})"
            case "Exists":
                return self.key
            case _:
                return f"!{self.key}"


@dataclass(frozen=True, slots=True)
class Selector:
    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.met_by(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        """Return it as kubectl takes it; empty if it matches everything."""
        return ",".join(map(str, self.requirements))


EVERYTHING: Final = Selector()

_MAX_REQUIREMENTS: Final = 100
"""Each is compared with the labels of all namespaces."""


def parse(obj: object, path: str) -> Selector:
    """Parse the selector at a dotted path of an object; an absent one matches everything."""
    requirements = []
    labels = fields.at(obj, f"{path}.matchLabels")
    if labels is not None and not isinstance(labels, Mapping):
        raise fields.FieldError(f"{path}.matchLabels", labels, "must be a mapping of labels")
    for key, value in (labels or {}).items():
        if not isinstance(value, str):
            raise fields.FieldError(f"{path}.matchLabels[{key}]", value, "must be text; put it in quotes")
        requirements.append(Requirement(str(key), "In", frozenset((value,))))
    expressions = fields.at(obj, f"{path}.matchExpressions")
    if expressions is not None and not isinstance(expressions, Sequence):
        raise fields.FieldError(f"{path}.matchExpressions", expressions, "must be a list")
    count = len(labels or ()) + len(expressions or ())
    if count > _MAX_REQUIREMENTS:
        raise fields.FieldError(path, f"{count} requirements", f"must have at most {_MAX_REQUIREMENTS}")
    for number, expression in enumerate(expressions or ()):
        requirements.append(_requirement(expression, f"{path}.matchExpressions[{number}]"))
    return Selector(tuple(requirements))


def _requirement(expression: object, path: str) -> Requirement:
    if not isinstance(expression, Mapping):
        raise fields.FieldError(path, expression, "must have the fields key and operator")
    key, operator = expression.get("key"), expression.get("operator")
    if not isinstance(key, str) or not key:
        raise fields.FieldError(f"{path}.key", key, "must be the name of a label")
    if operator not in _OPERATORS:
        raise fields.FieldError(f"{path}.operator", operator, f"must be one of {', '.join(_OPERATORS)}")
    values = expression.get("values") or ()
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise fields.FieldError(f"{path}.values", values, "must be a list of strings")
    if bool(values) != (operator in _VALUES_NEEDED):
        remedy = "must not be empty" if operator in _VALUES_NEEDED else f"must be left out with {operator}"
        raise fields.FieldError(f"{path}.values", list(values), remedy)
    return Requirement(key, operator, frozenset(values))
