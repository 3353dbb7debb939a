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
        "Client certificates are not supported. Make sure that cert_file and key_file are not set, and give the "
        "collector a token by exporter.headersSecret.",
    ),
    schema.rule(
        "!(has(self.configMapName) && self.configMapName != '' && has(self.secretName) && self.secretName != '')",
        "One object has the CA certificates. Make sure that only one of configMapName and secretName is set.",
    ),
]


def _labels(description: str) -> Schema:
    return schema.table(description, {"type": "string"})


def _selector() -> Schema:
    expression = schema.section(
        "A requirement on a label.",
        {
            "key": schema.text("Key of the label."),
            "operator": schema.text("In, NotIn, Exists or DoesNotExist."),
            "values": schema.listing("Values for In and NotIn.", {"type": "string"}),
        },
    )
    parts = {
        "matchLabels": _labels("Labels that must all be present with these values."),
        "matchExpressions": schema.listing("Requirements that must all be met.", expression),
    }
    return schema.section("Labels of the namespaces whose pods get the agents. If not set, all namespaces.", parts)


def _choice(description: str, possible: tuple[str, ...]) -> Schema:
    return schema.text(description, enum=list(possible))


def spec() -> Schema:
    image = {
        "reference": schema.text("Name of the image, with a tag or digest."),
        "pullPolicy": _choice(
            "Policy for the tag. Always: agents follow the tag. IfNotPresent: the first digest "
            "stays in use. Never: nodes download nothing.",
            dynakube.PULL_POLICIES,
        ),
        "pullSecret": schema.text("Pull Secret for the image."),
        "publicKeys": schema.text(
            "Public keys for the signature of the image, in PEM form; or the Secret with them at the key cosign.pub."
        ),
    }
    tls = {
        "configMapName": schema.text("ConfigMap with the CA certificates."),
        "secretName": schema.text("Secret with the CA certificates, instead of a ConfigMap."),
        "ca_file": schema.text(
            "Key of the certificates, in PEM form, in the ConfigMap or Secret; or the absolute "
            "path of a file in containers."
        ),
        "cert_file": schema.text("Not supported: client certificate."),
        "key_file": schema.text("Not supported: private key of a client certificate."),
    }
    exporter = {
        "endpoint": schema.text("URL of the collector."),
        "protocol": _choice("Protocol of the exporter.", injection.PROTOCOLS),
        "headersSecret": schema.text("Secret with HTTP headers for the collector: each key is the name of a header."),
        "tls": schema.section(
            "CA certificates that agents trust instead of the system's.", tls, **{schema.RULES: _TLS_RULES}
        ),
    }
    sampler = {
        "type": _choice("Type of the sampler.", injection.SAMPLERS),
        "argument": schema.text("Argument of the sampler, such as a ratio."),
    }
    variable = schema.section(
        "An environment variable.",
        {"name": schema.text("Name of the variable."), "value": schema.text("Value of the variable.")},
        required=["name"],
    )
    fields = {
        "image": schema.section("Image with the agents.", image),
        "package": schema.text(
            "Package on the nodes, instead of an image: file:///path/to/archive.zip or oci-layout:/path:name."
        ),
        "namespaceSelector": _selector(),
        "exporter": schema.section("Destination of the telemetry.", exporter),
        "languages": schema.listing(
            "Languages whose processes get an agent. If not set, all languages of the package.",
            {"type": "string", "enum": list(injection.LANGUAGES)},
        ),
        "sampler": schema.section("Sampler, which decides which traces are recorded.", sampler),
        "propagators": schema.listing(
            "Formats in which services pass on the context of a trace.",
            {"type": "string", "enum": list(injection.PROPAGATORS)},
        ),
        "resourceAttributes": _labels("Resource attributes of all telemetry."),
        "env": schema.listing(
            "Environment variables of the agents. They take precedence over the other fields.", variable
        ),
    }
    return schema.section("Desired state.", fields)


def manifest() -> dict[str, Any]:
    root = schema.section(
        "An OpenTelemetryInjection adds OpenTelemetry agents to pods of selected namespaces.",
        {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema.preserving(spec()),
            "status": schema.anything("Observed state, written by the operator."),
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
