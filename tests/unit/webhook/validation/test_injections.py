"""What is refused of an OpenTelemetryInjection, and what its author is told."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common.agents.opentelemetry import injection
from oneagent.webhook.validation import ClusterState, ValidationResult, injections
from tests.unit.webhook.validation.dynakubes import kube, mode


def manifest(name: str = "shop", namespace: str = "dynatrace", **spec: Any) -> dict[str, Any]:
    given = {"package": "file:///data/otel.zip", "exporter": {"endpoint": "http://collector:4318"}, **spec}
    return {
        "apiVersion": "csi.oneagent.dynatrace.com/v1alpha1",
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": name, "namespace": namespace},
        "spec": given,
    }


def cluster(*others: dict[str, Any], **state: Any) -> ClusterState:
    namespaces = {"web": {"team": "shop"}}
    return ClusterState(dynakubes=others, namespaces=namespaces, own_namespace="dynatrace", **state)


def test_a_valid_one_is_taken_without_a_word() -> None:
    assert injections.validate(manifest(), None, cluster()) == ValidationResult()


@pytest.mark.parametrize(
    ("obj", "error"),
    [
        (manifest(languages=["perl"]), "has an invalid field: spec.languages is 'perl': must be of java"),
        (manifest(image={"reference": "a/b:1"}), "has an invalid field: spec.package is"),
        (manifest(namespace="default"), "is in the namespace 'default', where the operator does not look for it"),
    ],
)
def test_an_error_names_the_field_and_the_remedy(obj: dict[str, Any], error: str) -> None:
    (found,) = injections.validate(obj, None, cluster()).errors
    assert error in found
    assert "Make sure that" in found


@pytest.mark.parametrize("authority", [{"configMapName": "ca", "ca_file": "ca.crt"}, {"ca_file": "/etc/ca.crt"}])
def test_a_ca_without_tls_has_no_effect(authority: dict[str, str]) -> None:
    plain, encrypted = ({"endpoint": f"{scheme}://collector:4318", "tls": authority} for scheme in ("http", "https"))
    (warning,) = injections.validate(manifest(exporter=plain), None, cluster()).warnings
    assert warning == "spec.exporter.tls has no effect unless spec.exporter.endpoint begins with https://"
    assert injections.validate(manifest(exporter=encrypted), None, cluster()) == ValidationResult()


def test_a_ca_in_a_variable_is_no_matter_of_that_field() -> None:
    variables = [{"name": "OTEL_EXPORTER_OTLP_CERTIFICATE", "value": "/etc/ca.crt"}]
    assert injections.validate(manifest(env=variables), None, cluster()) == ValidationResult()


def test_a_client_certificate_is_refused_with_the_reason() -> None:
    exporter = {"endpoint": "https://collector:4318", "tls": {"secretName": "tls", "cert_file": "tls.crt"}}
    (found,) = injections.validate(manifest(exporter=exporter), None, cluster()).errors
    assert "spec.exporter.tls.cert_file is 'tls.crt': remove it: client certificates are not possible" in found


def test_a_namespace_has_one_injector_of_whatever_kind() -> None:
    selector = {"matchLabels": {"team": "shop"}}
    other = kube(mode("applicationMonitoring", namespaceSelector=selector), name="prod")
    (found,) = injections.validate(manifest(namespaceSelector=selector), None, cluster(other)).errors
    assert found == (
        "The OpenTelemetryInjection selects namespaces (web) that the DynaKube 'prod' selects too. Make sure that no "
        "namespace matches the selectors of both; here that is spec.namespaceSelector."
    )
    mine = injection.normalize(manifest(namespaceSelector=selector))
    assert not injections.validate(manifest(namespaceSelector=selector), None, cluster(mine)).errors


def test_a_change_beside_the_specification_is_never_refused() -> None:
    wrong = manifest(languages=["perl"])
    labelled = {**wrong, "metadata": {**wrong["metadata"], "labels": {"a": "b"}}}
    assert not injections.validate(labelled, wrong, cluster()).errors
    assert injections.validate(manifest(languages=["cobol"]), wrong, cluster()).errors


def test_what_has_no_effect_is_a_warning() -> None:
    obj = manifest(exporter={"endpiont": "http://collector"})
    obj["metadata"]["annotations"] = {"feature.dynatrace.com/no-such-flag": "true"}
    found = injections.validate(obj, None, cluster(is_csi_driver_known=True))
    assert not found.errors
    text = "\n".join(found.warnings)
    for part in ("'spec.exporter.endpiont'", "spec.exporter.endpoint is not set", "CSI driver", "no-such-flag"):
        assert part in text
