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
            "requests": table("Minimum resources, which the scheduler reserves on the node.", _QUANTITY),
            "limits": table("Maximum resources.", _QUANTITY),
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
                "description": "Number or percentage of nodes whose host agent may be unavailable at the same "
                "time. If not set, 1.",
                **number_or_percentage,
            },
            "maxSurge": {
                "description": "Number or percentage of nodes that may run the old and the new host agent at the "
                "same time. Requires maxUnavailable 0.",
                **number_or_percentage,
            },
        },
    )


def pull_policy(description: str) -> Schema:
    return text(description, enum=["", "Always", "IfNotPresent", "Never"])


def selector(description: str) -> Schema:
    requirement = section(
        "A requirement on a label.",
        {
            "key": text("Key of the label."),
            "operator": text(
                "Relation between the label and the values.", enum=["In", "NotIn", "Exists", "DoesNotExist"]
            ),
            "values": listing("Values for In and NotIn.", {"type": "string"}),
        },
        required=["key", "operator"],
    )
    return section(
        description,
        {
            "matchLabels": table("Labels that must all be present with these values.", {"type": "string"}),
            "matchExpressions": listing("Requirements that must all be met.", requirement),
        },
        **{"x-kubernetes-map-type": "atomic"},
    )


def tolerations(description: str) -> Schema:
    toleration = section(
        "A toleration, as in a pod.",
        {
            "key": text("Key of the taint. If empty, all keys."),
            "operator": text("Equal or Exists. If not set, Equal."),
            "value": text("Value of the taint, for Equal."),
            "effect": text(
                "Effect of the taint. If empty, all effects.", enum=["", "NoSchedule", "PreferNoSchedule", "NoExecute"]
            ),
            "tolerationSeconds": number(
                "Seconds until the pod is evicted, for NoExecute. If not set, it is not evicted.", format="int64"
            ),
        },
    )
    return listing(description, toleration)


def variables(description: str) -> Schema:
    variable = section(
        "An environment variable, as in a pod.",
        {
            "name": text("Name of the variable."),
            "value": text("Value of the variable."),
            "valueFrom": anything("Source of the value: a field, resource, Secret or ConfigMap."),
        },
        required=["name"],
    )
    return listing(description, variable)


def conditions(description: str) -> Schema:
    condition = section(
        "A condition, as in other objects of Kubernetes.",
        {
            "type": text("Type of the condition."),
            "status": text("True, False or Unknown.", enum=["True", "False", "Unknown"]),
            "reason": text("Reason as one word, for programs."),
            "message": text("Reason as a sentence."),
            "lastTransitionTime": moment("Time of the last change of its status."),
            "observedGeneration": number("Generation of the object that the condition is about.", format="int64"),
        },
        required=["type", "status"],
    )
    return listing(description, condition, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
