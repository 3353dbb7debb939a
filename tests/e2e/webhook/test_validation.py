"""DynaKubes that cannot work, as kubectl tells their author: every rule once, by a dry run."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml

from tests.cluster.kubectl import Kubectl, KubectlError, Manifest
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.manifests import NAMESPACE

NOBODY = {"nobody.example.com/has": "this"}


def dynakube(spec: Manifest, name: str = "tried", **flags: str) -> Manifest:
    annotations = {f"feature.dynatrace.com/{flag.replace('_', '-')}": value for flag, value in flags.items()}
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", **spec},
    }


def mode(name: str, **own: Any) -> Manifest:
    """A mode that has nothing to do on this cluster."""
    selectors = {"namespaceSelector": {"matchLabels": NOBODY}} if name == "applicationMonitoring" else {}
    return {"oneAgent": {name: {**selectors, **own}}}


def in_namespace(name: str) -> Manifest:
    made = dynakube({})
    return {**made, "metadata": {**made["metadata"], "namespace": name}}


def secret(name: str, **texts: str) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE}
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def said(kubectl: Kubectl, manifest: Manifest) -> str:
    """What is said against a manifest; empty if nothing is."""
    try:
        kubectl("apply", "--dry-run=server", "--warnings-as-errors", "-f", "-", stdin=yaml.safe_dump(manifest))
    except KubectlError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (dynakube({"apiUrl": ""}), "is missing the API URL or still has the example value set. Make sure you"),
        (dynakube({"apiUrl": "https://abc12345.live.dynatrace.com"}), "invalid API URL value set. Make sure you"),
        (dynakube({"tokens": "oneagent-webhook-ca"}), "spec.tokens is 'oneagent-webhook-ca': name another Secret"),
        (dynakube({"proxy": {"value": "proxy:3128"}}), "is not the URL of a proxy"),
        (dynakube({"proxy": {"value": "http://me:a%2Cb@proxy:3128"}}), "characters that agents cannot read: ','"),
        (dynakube({}, name="s" * 49), "has 49 characters"),
        (dynakube({"oneAgent": {"hostMonitoring": {}, "classicFullStack": {}}}), "multiple oneagent modes"),
        (dynakube(mode("hostMonitoring", version="latest")), "is not a complete version"),
        (dynakube(mode("hostMonitoring", image="https://a/b")), "is not an image reference"),
        (dynakube({"apiUrl": "https://abc12345.apps.dynatrace.com/api"}), "has no API for agents"),
        (dynakube(mode("hostMonitoring", args=["a"])), "Warning: spec.oneAgent.hostMonitoring.args[0] (not shown)"),
        (dynakube(mode("hostMonitoring", args=["--a=1", "--a=2"])), "'--a' more than once"),
        (dynakube({"networkZone": "e\tu"}), "spec.networkZone has a line break, a tab"),
        (dynakube(mode("applicationMonitoring", useCSIDriver=False), injection_readonly_volume="true"), "read-only"),
        (dynakube(mode("applicationMonitoring"), node_image_pull="true"), "codeModulesImage names no image"),
        (dynakube({}, automatic_injection="yes"), 'is \'yes\'. Make sure that it is "true" or "false"'),
        (dynakube({}, ignored_namespaces="prod"), "is not a JSON list"),
        (dynakube(mode("hostMonitoring", nodeSelector={"a b": "c"})), "which is not a valid label key"),
        (
            dynakube({"networkZon": "eu"}),
            "Warning: spec.networkZon is not a field of v1beta6: did you mean spec.networkZ",
        ),
        (
            dynakube({}, disable_oneagent_readonly_host_fs="true"),
            "Warning: metadata.annotations[feature.dynatrace.com/disable-oneagent-readonly-host-fs] is deprecated",
        ),
        (in_namespace("default"), f"Make sure that it is in the operator's namespace, '{NAMESPACE}'"),
        (dynakube({"activeGate": {"capabilities": ["routing"]}}), "Warning: spec.activeGate has no effect"),
        (dynakube({}, no_porxy="a"), "Warning: metadata.annotations[feature.dynatrace.com/no-porxy]"),
    ],
)
def test_the_author_is_told(webhook: None, kubectl: Kubectl, manifest: Manifest, sentence: str) -> None:
    found = said(kubectl, manifest)
    assert sentence in found
    assert ("1 error(s) found in the Dynakube\n1. " in found) is not sentence.startswith("Warning: ")


def test_all_that_is_wrong_is_said_at_once(webhook: None, kubectl: Kubectl) -> None:
    wrong = dynakube({"apiUrl": "", "oneAgent": {"hostMonitoring": {"version": "1"}, "classicFullStack": {}}})
    assert "3 error(s) found in the Dynakube\n1. The DynaKube's specification is missing" in said(kubectl, wrong)


def test_the_secrets_of_proxy_and_tokens_are_judged_and_never_shown(
    webhook: None, kubectl: Kubectl, apply: Apply
) -> None:
    proxied = dynakube({"proxy": {"valueFrom": "tried-proxy"}})
    missing = said(kubectl, proxied)
    assert "Warning: spec.proxy.valueFrom is 'tried-proxy': this Secret does not exist yet" in missing
    assert "error(s) found" not in missing
    apply(secret("tried-proxy", url="http://me:geheim@proxy:3128"), secret("tried", paasToken="geheim"))
    found = said(kubectl, proxied)
    assert "1. spec.proxy.valueFrom is 'tried-proxy': this Secret has nothing at the key proxy" in found
    assert "Warning: The Secret 'tried' has paasToken" in found
    for url, fault in (("proxy:3128", "has no URL of a proxy"), ("http://me:geheim%2C@proxy", "has a password that")):
        apply(secret("tried-proxy", proxy=url))
        assert f"1. spec.proxy.valueFrom is 'tried-proxy': this Secret {fault}" in said(kubectl, proxied)
    apply(secret("tried-proxy", proxy="http://me:geheim@proxy:3128"), secret("tried", apiToken="geheim"))
    assert said(kubectl, proxied) == ""
    logs = kubectl("-n", NAMESPACE, "logs", "-l", "app.kubernetes.io/component=webhook", "--tail=-1")
    assert "geheim" not in found + logs


def test_another_dynakubes_nodes_and_namespaces_are_taken(
    webhook: None, kubectl: Kubectl, apply: Apply, wait_for: WaitFor
) -> None:
    own = {"nodeSelector": NOBODY, "namespaceSelector": {"matchLabels": NOBODY}}
    apply(dynakube({"oneAgent": {"cloudNativeFullStack": own}}, name="standing"))
    second = dynakube({"oneAgent": {"cloudNativeFullStack": own}})
    found = wait_for(lambda: said(kubectl, second), "the webhook has seen the first one")
    assert "2 error(s) found in the Dynakube" in found
    assert "nodes that have the host agent of the DynaKube 'standing'" in found
    assert "namespaces that the DynaKube 'standing' selects too" in found


def test_a_manifest_of_an_older_version_is_understood(webhook: None, kubectl: Kubectl) -> None:
    """Converted by the webhook for the API server, and validated as it was written."""
    modes: Manifest = {"oneAgent": {"applicationMonitoring": {}}}
    old = dynakube({"namespaceSelector": {"matchLabels": {"a b": "c"}}, **modes})
    found = said(kubectl, {**old, "apiVersion": "dynatrace.com/v1beta1"})
    assert "spec.metadataEnrichment.namespaceSelector has the key 'a b'" in found
