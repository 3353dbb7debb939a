"""An OpenTelemetryInjection becomes a DynaKube of another kind of agent."""

from __future__ import annotations

from typing import Any

import pytest
import trustme

from oneagent.common import dynakube
from oneagent.common.agents.opentelemetry import injection
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.kubernetes.errors import ForbiddenError
from oneagent.common.kubernetes.fields import FieldError
from oneagent.common.tenant import inputs, poll
from oneagent.common.tenant.inputs import Inputs
from oneagent.common.tenant.poll import TenantState
from tests.fakes import signing

IMAGE = "registry.example/otel:1.2"


def manifest(name: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "csi.oneagent.dynatrace.com/v1alpha1",
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": name, "namespace": "dynatrace", "uid": "8c1d", "generation": 3},
        "spec": spec or {"image": {"reference": IMAGE}},
    }


def test_what_both_kinds_share_is_read_alike() -> None:
    image = {"reference": IMAGE, "pullPolicy": "IfNotPresent", "pullSecret": "pull", "publicKeys": "keys"}
    kube = injection.read(manifest(image=image))
    assert (kube.name, kube.namespace, kube.uid, kube.generation) == ("otelinj.shop", "dynatrace", "8c1d", 3)
    assert (kube.package, kube.pull_policy, kube.pull_secret, kube.image_key) == (IMAGE, "IfNotPresent", "pull", "keys")
    assert kube.image is not None
    assert kube.needs_views
    assert kube.agent == "opentelemetry"
    assert (kube.api_url, kube.tokens_secret) == ("", "")


def test_keys_may_be_given_as_they_are() -> None:
    pem = signing.signer().pem
    kube = injection.read(manifest(image={"reference": IMAGE, "publicKeys": f"\n{pem}\n"}))
    assert kube.image_key == pem.strip()


@pytest.mark.parametrize("package", ["file:///data/packages/otel.zip", "oci-layout:/data/images/otel:1.2"])
def test_a_package_may_be_on_the_nodes(package: str) -> None:
    kube = injection.read(manifest(package=package))
    assert kube.is_local
    assert kube.package == package


def test_its_claim_is_that_of_a_dynakube() -> None:
    selector = {"matchLabels": {"team": "shop"}}
    obj = injection.normalize(manifest(package="file:///a.zip", namespaceSelector=selector))
    claim = namespace_mapping.claim(obj, "dynatrace")
    assert claim.dynakube == "otelinj.shop"
    assert claim.covers("web", {"team": "shop"})
    assert not claim.covers("web", {"team": "other"})
    assert not claim.covers("kube-system", {"team": "shop"})


def test_flags_of_dynakubes_hold_here_too() -> None:
    obj = manifest()
    obj["metadata"]["annotations"] = {"feature.dynatrace.com/mount-policy": "fail"}
    assert injection.read(obj).mount_policy == "fail"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no source": ({"languages": ["java"]}, r"spec.image.reference is missing: set it, or spec.package"),
    "two sources": ({"image": {"reference": IMAGE}, "package": "file:///a"}, "spec.package .* one source"),
    "image": ({"image": {"reference": "a b"}}, "spec.image.reference is 'a b': must be registry/path:tag"),
    "image on disk": ({"image": {"reference": "file:///a.zip"}}, "spec.image.reference is"),
    "package": ({"package": "https://example.com/a.zip"}, "spec.package is 'https://example.com/a.zip': must be file:"),
    "relative package": ({"package": "file:a.zip"}, "spec.package is 'file:a.zip': must be file:"),
    "policy": ({"image": {"reference": IMAGE, "pullPolicy": "Often"}}, "spec.image.pullPolicy is 'Often': must be one"),
    "no keys": ({"image": {"reference": IMAGE, "publicKeys": ""}}, "spec.image.publicKeys .* not shown.*: must be"),
    "keys": ({"image": {"reference": IMAGE, "publicKeys": "-----BEGIN PRIVATE KEY-----\nx"}}, "publicKeys .*not shown"),
    "reserved keys": ({"image": {"reference": IMAGE, "publicKeys": "oneagent-webhook-ca"}}, "name another Secret"),
    "reserved headers": ({"exporter": {"headersSecret": "oneagent-webhook-ca"}}, "name another Secret"),
    "selector": ({"namespaceSelector": {"matchExpressions": [{}]}}, r"namespaceSelector.matchExpressions\[0\].key"),
    "endpoint": ({"exporter": {"endpoint": "collector:4317"}}, "endpoint .*: must be the collector's URL"),
    "credentials": ({"exporter": {"endpoint": "http://me:pw@collector"}}, "endpoint .*: must not hold credentials"),
    "key of a client": (
        {"exporter": {"tls": {"secretName": "tls", "ca_file": "ca.crt", "key_file": "tls.key"}}},
        "spec.exporter.tls.key_file is 'tls.key': remove it: client certificates are not possible.*by spec.exp",
    ),
    "client's certificate": (
        {"exporter": {"tls": {"cert_file": "tls.crt"}}},
        "spec.exporter.tls.cert_file is 'tls.crt'",
    ),
    "two CAs": (
        {"exporter": {"tls": {"secretName": "a", "configMapName": "b", "ca_file": "ca.crt"}}},
        "spec.exporter.tls.secretName is 'a': remove it or configMapName",
    ),
    "no key": (
        {"exporter": {"tls": {"configMapName": "ca"}}},
        "spec.exporter.tls.ca_file is missing: name the key of the ConfigMap ca that has the CA, such as ca.crt",
    ),
    "key": (
        {"exporter": {"tls": {"secretName": "ca", "ca_file": "a/b"}}},
        "ca_file is 'a/b': name the key of the Secret ca",
    ),
    "no object": (
        {"exporter": {"tls": {"ca_file": "ca.crt"}}},
        "spec.exporter.tls.configMapName is missing: set it, or",
    ),
    "object and path": (
        {"exporter": {"tls": {"configMapName": "ca", "ca_file": "/etc/ca.crt"}}},
        "spec.exporter.tls.configMapName is 'ca': remove it, or have ca_file name a key",
    ),
    "path": (
        {"exporter": {"tls": {"ca_file": "/etc/../ca.crt"}}},
        "ca_file is '/etc/../ca.crt': must be a key, or the plain",
    ),
    "tls": ({"exporter": {"tls": "yes"}}, "spec.exporter.tls .*: must be a mapping"),
    "name of the CA": (
        {"exporter": {"tls": {"configMapName": "A B", "ca_file": "x"}}},
        "configMapName is 'A B': must be the",
    ),
    "reserved CA": (
        {"exporter": {"tls": {"secretName": "oneagent-webhook-ca", "ca_file": "x"}}},
        "name another Secret",
    ),
    "protocol": ({"exporter": {"protocol": "http"}}, "protocol is 'http': must be one of grpc, http/protobuf"),
    "language": ({"languages": ["java", "perl"]}, "spec.languages is 'perl': must be of java, nodejs, python"),
    "languages": ({"languages": "java"}, "spec.languages is 'java': must be a list"),
    "propagator": ({"propagators": ["w3c"]}, "spec.propagators is 'w3c': must be of tracecontext"),
    "sampler": ({"sampler": {"type": "often"}}, "spec.sampler.type is 'often': must be one of"),
    "argument": ({"sampler": {"argument": 0.25}}, "spec.sampler.argument .*: must be text; put it in quotes"),
    "attribute": ({"resourceAttributes": {"a=b": "c"}}, "spec.resourceAttributes is 'a=b': a key has"),
    "attribute's value": ({"resourceAttributes": {"a": 1}}, "spec.resourceAttributes.a is '1': must be text"),
    "reference": ({"env": [{"name": "A", "valueFrom": {}}]}, r"spec.env\[0\].valueFrom .*: give a value"),
    "variable": ({"env": [{"name": "A-B", "value": ""}]}, r"spec.env\[0\].name is 'A-B': must be a variable"),
    "lines": ({"env": [{"name": "A", "value": "1\nB=2"}]}, r"spec.env\[0\].value .*: must not contain line breaks"),
    "too many": ({"env": [{"name": f"A{n}", "value": ""} for n in range(65)]}, "spec.env .*: must have at most 64"),
    "too long": ({"env": [{"name": "A", "value": "x" * 20_000}]}, "spec is '.* bytes of variables': agents can have"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_field_that_cannot_be_used_is_named(wrong: str) -> None:
    spec, message = WRONG[wrong]
    if "image" not in spec and "package" not in spec and wrong != "no source":
        spec = {"package": "file:///a.zip", **spec}
    with pytest.raises(FieldError, match=message) as refused:
        injection.normalize(manifest(**spec))
    assert "PRIVATE" not in str(refused.value)
    assert "me:pw" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "Shop", "my.shop", "a" * 56])
def test_its_name_fits_a_label_with_its_prefix(name: str) -> None:
    with pytest.raises(FieldError, match=r"metadata\.name"):
        injection.normalize(manifest(name))
    assert injection.read(manifest("a" * 55)).name == f"otelinj.{'a' * 55}"


def test_another_version_is_refused() -> None:
    with pytest.raises(FieldError, match=r"apiVersion is 'dynatrace\.com/v1beta6': must be csi"):
        injection.normalize({**manifest(), "apiVersion": "dynatrace.com/v1beta6"})


def test_no_dynakube_becomes_one() -> None:
    forged = {"kind": "DynaKube", "metadata": {"name": "otelinj.shop"}, "spec": {}, "telemetry": {"variables": {}}}
    with pytest.raises(FieldError, match=r"metadata\.name"):
        dynakube.from_object(forged)
    with pytest.raises(FieldError, match="kind"):
        dynakube.from_object(manifest())


class TestHeaders:
    KUBE = injection.read(manifest(package="file:///a.zip", exporter={"headersSecret": "headers"}))

    def poll(self, objects: inputs.ObjectReader, before: TenantState | None = None) -> TenantState:
        return poll.poll(self.KUBE, objects, before or TenantState(), requests=poll.Requests(), now=lambda: 1.0)

    def test_they_come_from_the_secret_which_nodes_may_read(self) -> None:
        assert inputs.referenced_objects(self.KUBE) == inputs.named_objects(self.KUBE) == {("Secret", "headers")}
        state = self.poll(Inputs({("Secret", "headers"): {"authorization": "Bearer t0ken\n"}}))
        assert state.complete
        assert state.exporter_headers == {"authorization": "Bearer t0ken"}

    def test_without_the_secret_agents_are_not_configured_yet(self) -> None:
        state = self.poll(Inputs())
        assert not state.complete
        assert "spec.exporter.headersSecret: the Secret headers does not exist" in state.obstacle

    def test_the_former_ones_stay_while_it_cannot_be_read(self) -> None:
        class Forbidden(Inputs):
            def secret(self, name: str) -> Any:
                raise ForbiddenError("403")

        before = self.poll(Inputs({("Secret", "headers"): {"a": "b"}}))
        state = self.poll(Forbidden(), before)
        assert state.is_forbidden
        assert state.complete
        assert state.exporter_headers == {"a": "b"}

    @pytest.mark.parametrize(
        "content", [{"a b": "c"}, {"a": "b\nc: d"}, {"a": "x" * 10_000}, {"a": "\u00e9" * 3000}], ids=str
    )
    def test_what_can_be_no_header_is_named_and_not_shown(self, content: dict[str, str]) -> None:
        state = self.poll(Inputs({("Secret", "headers"): content}))
        assert "the Secret headers has" in state.problem
        assert not any(value in state.problem for value in content.values() if len(value) > 1)

    def test_an_injection_without_them_reads_no_secret(self) -> None:
        kube = injection.read(manifest(package="file:///a.zip"))
        assert not inputs.named_objects(kube)
        state = poll.poll(kube, Inputs(), TenantState(), requests=poll.Requests(), now=lambda: 1.0)
        assert state.complete


TLS: dict[str, str] = {"configMapName": "ca", "ca_file": "ca.crt"}


class TestAuthority:
    KUBE = injection.read(manifest(package="file:///a.zip", exporter={"tls": TLS}))
    CA = trustme.CA().cert_pem.bytes().decode()
    NAME: inputs.ObjectName = ("ConfigMap", "ca")

    def poll(self, content: dict[str, str] | None, before: TenantState | None = None) -> TenantState:
        objects = Inputs({self.NAME: content})
        return poll.poll(self.KUBE, objects, before or TenantState(), requests=poll.Requests(), now=lambda: 1.0)

    def test_it_comes_from_the_object_which_nodes_may_read(self) -> None:
        assert inputs.referenced_objects(self.KUBE) == inputs.named_objects(self.KUBE) == {self.NAME}
        state = self.poll({"ca.crt": self.CA, "other": "x"})
        assert state.complete
        assert state.exporter_ca == self.CA

    def test_a_secret_may_have_it(self) -> None:
        kube = injection.read(
            manifest(package="file:///a.zip", exporter={"tls": {"secretName": "tls", "ca_file": "ca.crt"}})
        )
        assert inputs.named_objects(kube) == {("Secret", "tls")}
        objects = Inputs({("Secret", "tls"): {"ca.crt": self.CA}})
        assert poll.poll(kube, objects, TenantState(), requests=poll.Requests(), now=lambda: 1.0).exporter_ca == self.CA

    def test_all_certificates_of_a_bundle_come_along_and_nothing_else_does(self) -> None:
        other = trustme.CA()
        key = other.private_key_pem.bytes().decode()
        state = self.poll({"ca.crt": f"# ours\r\n{self.CA}{key}\n{other.cert_pem.bytes().decode()}"})
        assert state.exporter_ca.count("BEGIN CERTIFICATE") == 2
        assert "PRIVATE" not in state.exporter_ca
        assert "ours" not in state.exporter_ca

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (None, "the ConfigMap ca does not exist: create it with PEM certificates at the key ca.crt"),
            (
                {"tls.crt": "x"},
                "the ConfigMap ca has no key ca.crt: put PEM certificates there, or name another key in",
            ),
            (
                {"ca.crt": ""},
                "has no valid certificate at the key ca.crt: put PEM certificates there, which begin with",
            ),
            ({"ca.crt": CA.replace("M", "N")}, "has no valid certificate at the key ca.crt"),
            ({"ca.crt": CA * 3000}, "has more than 1 MiB at the key ca.crt"),
        ],
        ids=["no object", "no key", "empty", "no certificate", "large"],
    )
    def test_what_can_be_no_ca_is_named_with_the_remedy(self, content: dict[str, str] | None, problem: str) -> None:
        state = self.poll(content)
        assert not state.complete
        assert state.problem.startswith("spec.exporter.tls.configMapName: ")
        assert problem in state.problem

    def test_the_former_one_stays_with_its_headers_while_one_of_both_cannot_be_used(self) -> None:
        exporter = {"tls": TLS, "headersSecret": "headers"}
        kube = injection.read(manifest(package="file:///a.zip", exporter=exporter))
        headers: inputs.ObjectName = ("Secret", "headers")

        def polled(before: TenantState, **contents: Any) -> TenantState:
            objects = Inputs({headers: contents["headers"], self.NAME: contents["ca"]})
            return poll.poll(kube, objects, before, requests=poll.Requests(), now=lambda: 1.0)

        before = polled(TenantState(), headers={"a": "1"}, ca={"ca.crt": self.CA})
        without_ca = polled(before, headers={"a": "2"}, ca=None)
        assert (without_ca.exporter_headers, without_ca.exporter_ca) == ({"a": "1"}, self.CA)
        assert "the ConfigMap ca does not exist" in without_ca.problem
        without_headers = polled(before, headers=None, ca={"ca.crt": trustme.CA().cert_pem.bytes().decode()})
        assert (without_headers.exporter_headers, without_headers.exporter_ca) == ({"a": "1"}, self.CA)

    def test_a_path_is_one_of_containers_and_names_no_object(self) -> None:
        kube = injection.read(manifest(package="file:///a.zip", exporter={"tls": {"ca_file": "/etc/ssl/ca.crt"}}))
        assert not inputs.named_objects(kube)
        assert kube.telemetry is not None
        assert dict(kube.telemetry.variables)["OTEL_EXPORTER_OTLP_CERTIFICATE"] == "/etc/ssl/ca.crt"

    def test_no_tls_is_none(self) -> None:
        for tls in ({}, {"configMapName": "", "cert_file": ""}, None):
            kube = injection.read(manifest(package="file:///a.zip", exporter={"tls": tls}))
            assert kube.telemetry is not None
            assert kube.telemetry.authority is None


class TestChangesOfItsObjects:
    KUBE = injection.read(
        manifest(image={"reference": IMAGE, "pullSecret": "pull"}, exporter={"headersSecret": "headers"})
    )
    HEADERS: inputs.ObjectName = ("Secret", "headers")

    def test_have_a_digest_that_tells_nothing_of_their_contents(self) -> None:
        def digest(content: str, version: str, pull: str = "1") -> str:
            versions: dict[inputs.ObjectName, str] = {self.HEADERS: version, ("Secret", "pull"): pull}
            return Inputs({self.HEADERS: {"a": content}}, versions).digest(inputs.exporter_objects(self.KUBE))

        assert digest("b", "1") == digest("c", "1") == digest("b", "1", "2") != digest("b", "2")
        assert Inputs().digest(inputs.exporter_objects(self.KUBE)) == ""

    def test_reach_nodes_by_the_status(self) -> None:
        obj = manifest()
        obj["status"] = {"codeModules": {injection.INPUTS: "0123"}}
        kube = injection.read(obj)
        assert kube.telemetry is not None
        assert kube.telemetry.inputs == "0123"
