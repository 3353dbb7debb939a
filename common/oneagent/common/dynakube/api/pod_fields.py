"""Kubernetes' own types, as far as a DynaKube passes them on to pods and namespaces."""

from __future__ import annotations

from typing import Final

from oneagent.common.dynakube.api.schema import (
    INT_OR_STRING,
    Schema,
    anything,
    listing,
    moment,
    number,
    section,
    table,
    text,
)

_QUANTITY: Final[Schema] = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    INT_OR_STRING: True,
    "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
}


def resources(description: str) -> Schema:
    return section(
        description,
        {
            "requests": table("Resources that a node must have free.", _QUANTITY),
            "limits": table("Resources that are never exceeded.", _QUANTITY),
        },
    )


def rolling_update(description: str) -> Schema:
    number_or_percentage: Schema = {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        INT_OR_STRING: True,
    }
    return section(
        description,
        {
            "maxUnavailable": {
                "description": "Nodes without an agent at a time: a number, or a percentage of all. 1 if not set.",
                **number_or_percentage,
            },
            "maxSurge": {
                "description": "Nodes that have the new agent beside the former one at a time. Needs maxUnavailable 0.",
                **number_or_percentage,
            },
        },
    )


def pull_policy(description: str) -> Schema:
    return text(description, enum=["", "Always", "IfNotPresent", "Never"])


def selector(description: str) -> Schema:
    requirement = section(
        "A condition on one label.",
        {
            "key": text("The label."),
            "operator": text("How it is compared.", enum=["In", "NotIn", "Exists", "DoesNotExist"]),
            "values": listing("The values for In and NotIn.", {"type": "string"}),
        },
        required=["key", "operator"],
    )
    return section(
        description,
        {
            "matchLabels": table("Labels that are all there with these values.", {"type": "string"}),
            "matchExpressions": listing("Conditions that all hold.", requirement),
        },
        **{"x-kubernetes-map-type": "atomic"},
    )


def tolerations(description: str) -> Schema:
    toleration = section(
        "A taint that is tolerated.",
        {
            "key": text("The taint's key; all of them if empty."),
            "operator": text("Exists, or Equal if not set."),
            "value": text("The taint's value for Equal."),
            "effect": text(
                "The effect; all of them if empty.", enum=["", "NoSchedule", "PreferNoSchedule", "NoExecute"]
            ),
            "tolerationSeconds": number("For NoExecute, how long.", format="int64"),
        },
    )
    return listing(description, toleration)


def variables(description: str) -> Schema:
    variable = section(
        "A variable, as in a pod.",
        {
            "name": text("Its name."),
            "value": text("Its value."),
            "valueFrom": anything("Source of the value: a field, resource, Secret or ConfigMap."),
        },
        required=["name"],
    )
    return listing(description, variable)


def conditions(description: str) -> Schema:
    condition = section(
        "A condition, by the conventions of Kubernetes.",
        {
            "type": text("Subject of the condition."),
            "status": text("Status of the condition.", enum=["True", "False", "Unknown"]),
            "reason": text("Reason in one word."),
            "message": text("Reason as a sentence."),
            "lastTransitionTime": moment("When the status changed."),
            "observedGeneration": number("The generation of the DynaKube that it speaks of.", format="int64"),
        },
        required=["type", "status"],
    )
    return listing(description, condition, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
