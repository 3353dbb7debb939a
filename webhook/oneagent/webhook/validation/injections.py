"""Validation of OpenTelemetryInjections: that they can be read, and the rules that DynaKubes have as well."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

from oneagent.common.dynakube.api import json_path
from oneagent.common.kubernetes.fields import FieldError
from oneagent.webhook.injection.inputs import Object
from oneagent.webhook.validation import feature_flags, selectors
from oneagent.webhook.validation.context import ClusterState, Rule, ValidationContext, ValidationResult, quote

_ERRORS: Final[tuple[Rule, ...]] = (
    feature_flags.value_invalid,
    selectors.selector_invalid,
    selectors.namespaces_overlap,
)
_WARNINGS: Final[tuple[Rule, ...]] = (feature_flags.unknown, feature_flags.misspelt_prefix)


def validate(new: Object, old: Object | None, cluster: ClusterState) -> ValidationResult:
    """Validate an object. A change that leaves the specification and the annotations as they are is never refused."""
    from oneagent.common.agents.opentelemetry import crd, injection  # Needed only where there are such objects.

    if old is not None and _settings(old) == _settings(new):
        return ValidationResult()
    warnings = list(crd.unknown_fields(new))
    warnings = [f"unknown field {quote(path)}: it is ignored" for path in warnings]
    try:
        normalized = injection.normalize({key: value for key, value in new.items() if key != "status"})
        injection.read(new)
    except FieldError as error:
        text = f"The OpenTelemetryInjection has an invalid field: {error}. Make sure that {error.field} is valid."
        return ValidationResult((text,), tuple(warnings))
    context = ValidationContext(dict(new), normalized, None, cluster)
    errors = (*_wrong_namespace(new, cluster), *_sentences(_ERRORS, context))
    variables = dict(normalized["telemetry"]["variables"])
    if not (endpoint := variables.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        warnings.append("spec.exporter.endpoint is not set: agents send to a collector in their own pod")
    if json_path.get_value(dict(new), "spec.exporter.tls.ca_file") and not str(endpoint).lower().startswith("https:"):
        warnings.append("spec.exporter.tls has no effect unless spec.exporter.endpoint begins with https://")
    if cluster.lacks_csi_driver:
        warnings.append("the CSI driver is not installed on this cluster: no pod gets an agent without it")
    return ValidationResult(errors, (*warnings, *_sentences(_WARNINGS, context)))


def _settings(obj: Object) -> tuple[Any, ...]:
    return obj.get("spec"), json_path.get_value(dict(obj), "metadata.annotations")


def _wrong_namespace(new: Object, cluster: ClusterState) -> Iterator[str]:
    namespace = json_path.get_value(dict(new), "metadata.namespace")
    if isinstance(namespace, str) and namespace and namespace != cluster.own_namespace:
        yield (
            f"The OpenTelemetryInjection is in the namespace {quote(namespace)}, where the operator does not look for "
            f"it. Make sure that it is in the operator's namespace, {quote(cluster.own_namespace)}."
        )


def _sentences(rules: tuple[Rule, ...], context: ValidationContext) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(rule(context) for rule in rules))
