"""The CRD before a real API server: what it takes, refuses, keeps, shows, and converts.

Conversion is done by a webhook of the test's own, which answers with the conversion that is shipped.
"""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from oneagent.common.dynakube.api import conversion, crd, versions
from tests.cluster import cluster as clusters
from tests.cluster.kubectl import Kubectl, KubectlError, Manifest
from tests.cluster.node import Node
from tests.e2e import installation
from tests.e2e.fixture_types import Apply, WaitFor
from tests.unit.common.dynakube.api.manifests import CASES, case

NAMESPACE = "default"
API_URL = "https://abc12345.live.dynatrace.com/api"


def dynakube(name: str, spec: Manifest | None = None) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {
        "apiVersion": f"dynatrace.com/{versions.NEWEST}",
        "kind": "DynaKube",
        "metadata": metadata,
        "spec": {"apiUrl": API_URL, **(spec or {})},
    }


def stored(kubectl: Kubectl, name: str, version: str = versions.NEWEST) -> dict[str, Any]:
    """The object as a reader of a version gets it, without what the API server adds."""
    found = kubectl.json("-n", NAMESPACE, "get", f"dynakubes.{version}.dynatrace.com", name)
    metadata = {key: found["metadata"][key] for key in ("name", "namespace", "annotations") if key in found["metadata"]}
    return {**found, "metadata": metadata}


class Converter(http.server.ThreadingHTTPServer):
    """Answers ConversionReviews over TLS."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            wanted, objects = review["request"]["desiredAPIVersion"], review["request"]["objects"]
            review["response"] = {
                "uid": review["request"]["uid"],
                "convertedObjects": [conversion.convert(each, wanted) for each in objects],
                "result": {"status": "Success"},
            }
            del review["request"]
            answer = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass


@pytest.fixture(scope="module")
def established(cluster: clusters.Cluster, kubectl: Kubectl, wait_for: WaitFor) -> None:
    """The CRD as it is shipped."""
    shipped = yaml.safe_dump_all(installation.manifests("crd.yaml"))
    kubectl("apply", "--server-side", "--force-conflicts", "--warnings-as-errors", "-f", "-", stdin=shipped)
    wait_for(lambda: conditions(kubectl).get("Established") == "True", "the CRD is established")


def conditions(kubectl: Kubectl) -> dict[str, str]:
    found = kubectl.json("get", "crd", crd.NAME).get("status", {}).get("conditions") or ()
    return {condition["type"]: condition["status"] for condition in found}


@pytest.fixture(scope="module")
def converted(established: None, cluster: clusters.Cluster, kubectl: Kubectl, wait_for: WaitFor) -> Iterator[None]:
    """The CRD with all versions and a webhook that answers; afterwards as it is shipped."""
    authority = cluster.control_plane.authority
    certificate, key = authority.issue("converter", common_name="converter", hosts=[Node.address])
    server = Converter((Node.address, 0), Converter.Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bundle = b64encode(authority.certificate.read_bytes()).decode()
    client = {"url": f"https://{Node.address}:{server.server_port}/convert", "caBundle": bundle}
    try:
        # The bundle may be the operator's by now.
        made = yaml.safe_dump(crd.manifest(client))
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=made)
        wait_for(lambda: all(answers(kubectl, version) for version in versions.VERSIONS), "every version is served")
        yield
        kubectl("-n", NAMESPACE, "delete", "dynakubes", "--all")
    finally:
        kubectl.apply(*installation.manifests("crd.yaml"))
        server.shutdown()
        server.server_close()


def answers(kubectl: Kubectl, version: str) -> bool:
    try:
        kubectl("-n", NAMESPACE, "get", f"dynakubes.{version}.dynatrace.com")
    except KubectlError:
        return False
    return True


def refusal(kubectl: Kubectl, manifest: Manifest) -> str:
    with pytest.raises(KubectlError) as refused:
        kubectl.apply(manifest)
    return str(refused.value)


def test_the_api_server_takes_it_as_structural(established: None, kubectl: Kubectl) -> None:
    found = conditions(kubectl)
    assert found["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in found
    assert "KubernetesAPIApprovalPolicyConformant" not in found


def test_fields_are_explained(established: None, kubectl: Kubectl, wait_for: WaitFor) -> None:
    def explained() -> str:
        try:
            return kubectl("explain", "dynakube.spec.apiUrl")
        except KubectlError:
            return ""

    assert "URL of the tenant's API" in wait_for(explained, "the API server publishes the schema")


@pytest.mark.parametrize("name", ["dk", "dks", "dynatrace"])
def test_it_has_its_short_names_and_category(established: None, kubectl: Kubectl, apply: Apply, name: str) -> None:
    apply(dynakube("named"))
    assert "named" in kubectl("-n", NAMESPACE, "get", name)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"apiUrl": "https://a.example/" + 512 * "a"}, "spec.apiUrl: Too long"),
        ({"oneAgent": {"hostMonitoring": []}}, "spec.oneAgent.hostMonitoring"),
        (
            {"oneAgent": {"hostMonitoring": {"dnsPolicy": "Any"}}},
            'spec.oneAgent.hostMonitoring.dnsPolicy: Unsupported value: "Any"',
        ),
        (
            {"oneAgent": {"hostMonitoring": {"oneAgentResources": {"limits": {"cpu": "1x"}}}}},
            "spec.oneAgent.hostMonitoring.oneAgentResources.limits.cpu: Invalid value: ",
        ),
        (
            {"oneAgent": {"hostMonitoring": {"env": [{"value": "a"}]}}},
            "spec.oneAgent.hostMonitoring.env[0].name: Required value",
        ),
        (
            {"oneAgent": {"hostMonitoring": {"imagePullPolicy": "Sometimes"}}},
            'spec.oneAgent.hostMonitoring.imagePullPolicy: Unsupported value: "Sometimes"',
        ),
        (
            {"oneAgent": {"classicFullStack": {"rollingUpdate": {"maxUnavailable": True}}}},
            "spec.oneAgent.classicFullStack.rollingUpdate.maxUnavailable",
        ),
        ({"resourceAttributes": {f"a{number}": "b" for number in range(65)}}, "spec.resourceAttributes: Too many: 65"),
        ({"tokens": "No_Secret"}, "spec.tokens: Invalid value: "),
        ({"dynatraceApiRequestThreshold": -1}, "spec.dynatraceApiRequestThreshold: Invalid value: -1"),
        (
            {"metadataEnrichment": {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}},
            'spec.metadataEnrichment.namespaceSelector.matchExpressions[0].operator: Unsupported value: "Is"',
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(
    established: None, kubectl: Kubectl, spec: Manifest, said: str
) -> None:
    assert said in refusal(kubectl, dynakube("refused", spec))


@pytest.mark.parametrize("amount", [15, "25%"])
def test_a_rolling_update_has_numbers_or_percentages(
    established: None, kubectl: Kubectl, apply: Apply, amount: int | str
) -> None:
    apply(dynakube("rolling", {"oneAgent": {"hostMonitoring": {"rollingUpdate": {"maxUnavailable": amount}}}}))
    found = stored(kubectl, "rolling")["spec"]["oneAgent"]["hostMonitoring"]["rollingUpdate"]
    assert found == {"maxUnavailable": amount}


def test_a_dynakube_stays_with_its_tenant(established: None, kubectl: Kubectl, apply: Apply) -> None:
    apply(dynakube("faithful"))
    kubectl.apply(dynakube("faithful", {"apiUrl": "https://abc12345.apps.dynatrace.com/api"}))
    said = refusal(kubectl, dynakube("faithful", {"apiUrl": "https://xyz98765.live.dynatrace.com/api"}))
    assert "spec.apiUrl: Invalid value: " in said
    assert "The API URL leads to another tenant than before. Make sure that the tenant stays the same" in said


def test_on_a_host_with_many_tenants_the_path_tells_them_apart(
    established: None, kubectl: Kubectl, apply: Apply
) -> None:
    apply(dynakube("managed", {"apiUrl": "https://old.example.com/e/0a1b2c/api"}))
    kubectl.apply(dynakube("managed", {"apiUrl": "https://new.example.com/e/0a1b2c/api"}))
    assert "another tenant" in refusal(kubectl, dynakube("managed", {"apiUrl": "https://new.example.com/e/ffff/api"}))


def test_what_nobody_knows_is_kept_and_a_mode_with_nothing_behind_it_is_none(
    established: None, kubectl: Kubectl, apply: Apply
) -> None:
    spec = {
        "later": {"than": ["this"]},
        "activeGate": {"capabilities": ["routing"], "resources": None},
        "oneAgent": {
            "hostMonitoring": None,
            "cloudNativeFullStack": {"flavour": "musl", "env": [{"name": "A", "from": "B"}]},
        },
    }
    apply(dynakube("odd", spec))
    found = stored(kubectl, "odd")["spec"]
    assert found["later"] == {"than": ["this"]}
    assert found["oneAgent"]["cloudNativeFullStack"] == {"flavour": "musl", "env": [{"name": "A", "from": "B"}]}
    assert found["activeGate"] == {"capabilities": ["routing"], "resources": None}
    assert found["skipCertCheck"] is False


@pytest.mark.parametrize(
    ("status", "version"),
    [
        ({"oneAgent": {"version": "1.2.3"}}, "1.2.3"),
        ({"oneAgent": {"version": "1.2.3"}, "codeModules": {"version": "4.5.6"}}, "4.5.6"),
    ],
)
def test_columns_show_how_it_stands(
    established: None, kubectl: Kubectl, apply: Apply, status: Manifest, version: str
) -> None:
    apply(dynakube("shown"))
    ready = {"type": "Ready", "status": "True"}
    whole = {
        "status": {**status, "mode": "hostMonitoring", "conditions": [{"type": "Tokens", "status": "False"}, ready]}
    }
    kubectl("-n", NAMESPACE, "patch", "dk", "shown", "--subresource=status", "--type=merge", "-p", json.dumps(whole))
    header, line = kubectl("-n", NAMESPACE, "get", "dk", "shown").splitlines()
    assert header.split() == ["NAME", "APIURL", "MODE", "VERSION", "READY", "AGE"]
    assert line.split()[:-1] == ["shown", API_URL, "hostMonitoring", version, "True"]


def test_as_long_as_nobody_converts_older_manifests_are_refused_and_the_newest_are_served(
    established: None, kubectl: Kubectl, apply: Apply
) -> None:
    apply(dynakube("new"))
    said = refusal(kubectl, {**dynakube("old"), "apiVersion": "dynatrace.com/v1beta1"})
    assert "conversion webhook" in said
    assert "oneagent-webhook.dynatrace.svc" in said
    apply(dynakube("new", {"networkZone": "eu"}))
    assert stored(kubectl, "new")["spec"]["networkZone"] == "eu"
    assert "new" in kubectl("-n", NAMESPACE, "get", "dynakubes")


def test_a_tenant_can_be_given_later(established: None, kubectl: Kubectl, apply: Apply) -> None:
    apply(dynakube("later", {"apiUrl": ""}))
    kubectl.apply(dynakube("later"))
    assert "another tenant" in refusal(kubectl, dynakube("later", {"apiUrl": "https://x.example/api"}))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_manifest_of_any_version_is_taken_and_read_back_in_every_version(
    converted: None, kubectl: Kubectl, apply: Apply, path: Any
) -> None:
    written, _ = case(path)
    written["metadata"] = {**written["metadata"], "name": path.stem, "namespace": NAMESPACE}
    status = written.pop("status", None)
    apply(written)
    newest = stored(kubectl, path.stem)
    if status is None:
        assert without_defaults(conversion.convert(newest, written["apiVersion"])) == without_defaults(written)
    for version in versions.VERSIONS:
        found = stored(kubectl, path.stem, version)
        assert found == conversion.convert(newest, f"dynatrace.com/{version}")


def without_defaults(manifest: Manifest) -> Manifest:
    spec = dict(manifest["spec"])
    for name in ("skipCertCheck", "enableIstio"):
        if spec.get(name) is False:
            del spec[name]
    return {**manifest, "spec": spec}


def test_writing_in_an_old_version_keeps_what_only_the_newest_can_say(
    converted: None, kubectl: Kubectl, apply: Apply
) -> None:
    one, other = {"matchLabels": {"monitor": "yes"}}, {"matchLabels": {"team": "shop"}}
    spec = {
        "oneAgent": {"applicationMonitoring": {"namespaceSelector": one}},
        "metadataEnrichment": {"enabled": True, "namespaceSelector": other},
    }
    apply(dynakube("both", spec))
    patch = json.dumps({"spec": {"networkZone": "eu"}})
    kubectl("-n", NAMESPACE, "patch", "dynakubes.v1beta1.dynatrace.com", "both", "--type=merge", "-p", patch)
    found = stored(kubectl, "both")
    assert found["spec"]["networkZone"] == "eu"
    assert found["spec"]["metadataEnrichment"] == spec["metadataEnrichment"]
    assert found["spec"]["oneAgent"] == spec["oneAgent"]
    assert "annotations" not in found["metadata"]


def test_old_versions_are_told_to_be_old_and_checked_by_their_own_schema(converted: None, kubectl: Kubectl) -> None:
    old = {**dynakube("old"), "apiVersion": "dynatrace.com/v1alpha1"}
    with pytest.raises(KubectlError, match=r"is deprecated; write dynatrace\.com/v1beta6"):
        kubectl("apply", "--dry-run=server", "--warnings-as-errors", "-f", "-", stdin=yaml.safe_dump(old))
    old["spec"] = {"apiUrl": API_URL, "classicFullStack": {"enabled": "yes"}}
    assert "spec.classicFullStack.enabled: expected boolean" in refusal(kubectl, old)
