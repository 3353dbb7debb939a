"""What the preload library of OpenTelemetry's agents reads: files of variables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common.agents import opentelemetry
from oneagent.common.agents.opentelemetry import config_layer, container_env, injection, variable_lines
from oneagent.common.agents.pod_files import Container, PodFiles
from oneagent.common.agents.profile import PodIdentity
from oneagent.common.tenant.poll import TenantState

POD = Container(
    pod_name="cart-5d8f-x2x",
    pod_uid="8c1d",
    base_pod_name="cart",
    namespace="shop",
    cluster_id="c0ffee",
    node_name="node-1",
)


def pod_files(**facts: Any) -> PodFiles:
    named: dict[str, Any] = {"workload_kind": "Deployment", "workload_name": "cart"} | facts
    return PodFiles(
        POD, (("app", "registry.example:5000/cart:1.4@sha256:00"), ("proxy", "")), agent="opentelemetry", **named
    )


def attributes(text: str) -> dict[str, str]:
    return variable_lines.split(variable_lines.parse(text)[variable_lines.RESOURCE_ATTRIBUTES])


def injected(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": "shop"},
        "spec": {"package": "file:///a.zip", **spec},
    }


class TestContainersFile:
    def test_it_names_service_and_resource_by_the_semantic_conventions(self) -> None:
        files = dict(pod_files().render())
        assert set(files) == {"container_app.env", "container_proxy.env"}
        assert variable_lines.parse(files["container_app.env"])["OTEL_SERVICE_NAME"] == "cart"
        assert attributes(files["container_app.env"]) == {
            "k8s.namespace.name": "shop",
            "k8s.pod.name": "cart-5d8f-x2x",
            "k8s.pod.uid": "8c1d",
            "k8s.node.name": "node-1",
            "k8s.container.name": "app",
            "k8s.cluster.uid": "c0ffee",
            "k8s.deployment.name": "cart",
            "service.namespace": "shop",
            "service.version": "1.4",
            "service.instance.id": "shop.cart-5d8f-x2x.app",
        }
        assert "service.version" not in attributes(files["container_proxy.env"])

    def test_without_a_workload_the_pod_names_the_service(self) -> None:
        text = container_env.render_identity(pod_files(workload_kind="", workload_name=""))
        assert variable_lines.parse(text)["OTEL_SERVICE_NAME"] == "cart"

    def test_a_workload_of_an_unknown_kind_has_no_attribute(self) -> None:
        (first, _) = pod_files(workload_kind="Rollout").render()
        assert not [key for key in attributes(first[1]) if "rollout" in key]

    def test_the_view_s_own_file_names_the_container_if_there_is_a_single_one(self) -> None:
        assert "k8s.container.name" not in attributes(container_env.render_identity(pod_files()))
        single = PodFiles(POD, (("app", ""),), agent="opentelemetry")
        assert attributes(container_env.render_identity(single))["k8s.container.name"] == "app"

    def test_the_pod_is_found_again_in_it(self) -> None:
        text = container_env.render_identity(pod_files())
        assert container_env.parse_identity(text) == PodIdentity("cart-5d8f-x2x", "shop", "8c1d")
        assert container_env.parse_identity("") == PodIdentity("", "", "")

    @given(st.text(max_size=40), st.text(max_size=40))
    def test_no_value_can_add_a_variable_or_an_attribute(self, workload: str, team: str) -> None:
        facts = pod_files(workload_name=workload, resource_attributes={"team": team})
        (_, text), *_ = facts.render()
        assert set(variable_lines.parse(text)) <= {"OTEL_SERVICE_NAME", variable_lines.RESOURCE_ATTRIBUTES}
        found = attributes(text)
        plain = attributes(next(iter(pod_files().render()))[1])
        assert set(found) <= {*plain, "team"}
        assert text.count("\n") <= 2


@given(st.dictionaries(st.from_regex(r"[a-z][a-z.]{0,8}", fullmatch=True), st.text(max_size=30)))
def test_what_was_joined_is_split_again(items: dict[str, str]) -> None:
    cleaned = {key: " ".join(value.split()) for key, value in items.items() if value.isprintable()}
    expected = {key: value for key, value in cleaned.items() if value}
    assert variable_lines.split(variable_lines.join(expected.items())) == expected


class TestSettings:
    def test_fields_become_the_variables_of_the_specification(self) -> None:
        kube = injection.read(
            injected(
                exporter={"endpoint": "http://collector.telemetry:4318", "protocol": "http/protobuf"},
                sampler={"type": "parentbased_traceidratio", "argument": "0.25"},
                propagators=["tracecontext", "baggage", "tracecontext"],
                languages=["java", "python"],
                resourceAttributes={"deployment.environment.name": "production, EU"},
                env=[{"name": "OTEL_METRICS_EXPORTER", "value": "none"}],
            )
        )
        assert variable_lines.parse(config_layer.render_variables("", kube, TenantState())) == {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.telemetry:4318",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
            "OTEL_PROPAGATORS": "tracecontext,baggage",
            "OTEL_INJECTOR_LANGUAGES": "java,python",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=production%2C EU",
            "OTEL_METRICS_EXPORTER": "none",
        }

    def test_env_comes_before_other_fields_and_these_before_the_package(self) -> None:
        kube = injection.read(
            injected(
                sampler={"type": "always_on"},
                propagators=["b3"],
                env=[{"name": "OTEL_PROPAGATORS", "value": "jaeger"}],
            )
        )
        package = "# defaults\nOTEL_TRACES_SAMPLER=always_off\r\nOTEL_LOGS_EXPORTER=none\nnonsense\n"
        assert variable_lines.parse(config_layer.render_variables(package, kube, TenantState())) == {
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_PROPAGATORS": "jaeger",
            "OTEL_LOGS_EXPORTER": "none",
        }

    def test_headers_are_encoded_and_no_part_of_a_representation(self) -> None:
        state = TenantState(exporter_headers={"x-team": "shop", "authorization": "Bearer s3cret,x=1"})
        text = config_layer.render_variables("", injection.read(injected()), state)
        assert text == "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer s3cret%2Cx%3D1,x-team=shop\n"
        assert "s3cret" not in repr(state)

    def test_a_package_s_variables_never_make_the_file_too_large_for_the_library(self) -> None:
        kube = injection.read(injected(propagators=["b3"]))
        package = f"A={'x' * opentelemetry.MAX_FILE_BYTES}\n"
        assert config_layer.render_variables(package, kube, TenantState()) == "OTEL_PROPAGATORS=b3\n"


def test_a_value_has_one_line() -> None:
    assert variable_lines.render({"A": "1\nB=2", "C": ""}) == "A=1B=2\n"


@pytest.mark.parametrize("image", ["", "cart", "registry:5000/cart", "cart@sha256:00"])
def test_an_image_without_a_tag_names_no_version(image: str) -> None:
    (_, text), *_ = PodFiles(POD, (("app", image),), agent="opentelemetry").render()
    assert "service.version" not in attributes(text)


def test_a_layer_has_a_ca_only_if_there_is_one() -> None:
    kube = injection.read(injected())
    assert set(config_layer.render("", kube, TenantState())) == {opentelemetry.CONFIG_FILE}
    files = config_layer.render("", kube, TenantState(exporter_ca="PEM"))
    assert files[opentelemetry.AUTHORITY_FILE] == "PEM"
    assert set(files) == set(opentelemetry.PROFILE.config_files)
