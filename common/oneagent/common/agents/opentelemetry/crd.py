"""The CustomResourceDefinition of OpenTelemetryInjections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from oneagent.common import dynakube, identifiers
from oneagent.common.agents.opentelemetry import injection
from oneagent.common.dynakube.api import schema, versions
from oneagent.common.dynakube.api.schema import Schema

NAME: Final = f"{identifiers.INJECTION_PLURAL}.{identifiers.INJECTION_GROUP}"
SHORT_NAME: Final = "otelinj"

COLUMNS: Final = (
    ("Image", "string", ".spec.image.reference"),
    ("Endpoint", "string", ".spec.exporter.endpoint"),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
    ("Age", "date", ".metadata.creationTimestamp"),
)

_TLS_RULES: Final = [
    schema.rule(
        "!(has(self.cert_file) && self.cert_file != '') && !(has(self.key_file) && self.key_file != '')",
        "Client certificates are not possible. Make sure that cert_file and key_file are not set, and give the "
        "collector a token by exporter.headersSecret.",
    ),
    schema.rule(
        "!(has(self.configMapName) && self.configMapName != '' && has(self.secretName) && self.secretName != '')",
        "One object has the CA. Make sure that only one of configMapName and secretName is set.",
    ),
]


def _labels(description: str) -> Schema:
    return schema.table(description, {"type": "string"})


def _selector() -> Schema:
    expression = schema.section(
        "A requirement.",
        {
            "key": schema.text("The label."),
            "operator": schema.text("In, NotIn, Exists or DoesNotExist."),
            "values": schema.listing("Values, for In and NotIn.", {"type": "string"}),
        },
    )
    parts = {
        "matchLabels": _labels("Labels that a namespace has to have."),
        "matchExpressions": schema.listing("Requirements, all of which have to be met.", expression),
    }
    return schema.section("Namespaces whose pods get the agents; all if absent.", parts)


def _choice(description: str, possible: tuple[str, ...]) -> Schema:
    return schema.text(description, enum=list(possible))


def spec() -> Schema:
    image = {
        "reference": schema.text("The image, by tag or digest."),
        "pullPolicy": _choice(
            "Always follows the tag, IfNotPresent stays with its first digest, Never downloads nothing.",
            dynakube.PULL_POLICIES,
        ),
        "pullSecret": schema.text("Secret with credentials for the registry."),
        "publicKeys": schema.text("Public keys in PEM form, or the Secret whose entry cosign.pub has them."),
    }
    tls = {
        "configMapName": schema.text("ConfigMap that has the CA."),
        "secretName": schema.text("Secret that has the CA, if no ConfigMap has."),
        "ca_file": schema.text("Key with certificates in PEM form, or absolute path of such a file in containers."),
        "cert_file": schema.text("Not possible: a client's certificate."),
        "key_file": schema.text("Not possible: a client's private key."),
    }
    exporter = {
        "endpoint": schema.text("The collector's URL."),
        "protocol": _choice("How telemetry is sent.", injection.PROTOCOLS),
        "headersSecret": schema.text("Secret whose keys are headers of the requests."),
        "tls": schema.section("The CA that agents trust, instead of the system's.", tls, **{schema.RULES: _TLS_RULES}),
    }
    sampler = {
        "type": _choice("The sampler.", injection.SAMPLERS),
        "argument": schema.text("Its argument, such as a ratio."),
    }
    variable = schema.section(
        "A variable.", {"name": schema.text("Its name."), "value": schema.text("Its value.")}, required=["name"]
    )
    fields = {
        "image": schema.section("Image with the agents.", image),
        "package": schema.text("Package on the nodes: file:///path/to/archive.zip, or oci-layout:/path:name."),
        "namespaceSelector": _selector(),
        "exporter": schema.section("Where telemetry goes.", exporter),
        "languages": schema.listing(
            "Languages whose processes get an agent; all in the package if absent.",
            {"type": "string", "enum": list(injection.LANGUAGES)},
        ),
        "sampler": schema.section("Which traces are recorded.", sampler),
        "propagators": schema.listing(
            "How the context of a trace travels.", {"type": "string", "enum": list(injection.PROPAGATORS)}
        ),
        "resourceAttributes": _labels("Attributes of all telemetry."),
        "env": schema.listing("Variables of the agents, which come before those of the other fields.", variable),
    }
    return schema.section("What pods get.", fields)


def manifest() -> dict[str, Any]:
    root = schema.section(
        "Gives pods of namespaces the agents of OpenTelemetry.",
        {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema.preserving(spec()),
            "status": schema.anything("Written by the operator."),
        },
    )
    version = {
        "name": versions.INJECTION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS],
        "schema": {"openAPIV3Schema": root},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": identifiers.INJECTION_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": identifiers.INJECTION_KIND,
                "listKind": f"{identifiers.INJECTION_KIND}List",
                "plural": identifiers.INJECTION_PLURAL,
                "singular": identifiers.INJECTION_KIND.lower(),
                "shortNames": [SHORT_NAME],
            },
            "versions": [version],
        },
    }


def unknown_fields(obj: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of fields of the specification that have no effect."""
    return schema.unknown(spec(), obj.get("spec") or {}, "spec")
