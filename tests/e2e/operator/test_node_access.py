"""What a node can read with the provisioner's token: the Secrets and ConfigMaps that DynaKubes name, and no others."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deploy import generate

from oneagent.common.dynakube import secret_names
from oneagent.operator.certificates import ca_bundle
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError, Manifest
from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply, Release, WaitFor
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE
from tests.fakes.tenant import Tenant

AUTHORITY: Final = "oneagent-webhook-ca"
NAMED: Final = {"secret/reader", "secret/reader-pull", "secret/reader-proxy", "secret/reader-keys", "configmap/reader"}
OTHERS: Final = {
    "secret/reader-other",
    "secret/oneagent-webhook-certs",
    f"secret/{AUTHORITY}",
    "configmap/kube-root-ca.crt",
}

pytestmark = pytest.mark.usefixtures("driver", "operator")


class NodeToken:
    """The token of the driver's service account, as root on a node has it."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl

    def reads(self, name: str) -> bool:
        """Read `kind/name`; False if that is forbidden, an error if it does not exist."""
        try:
            self._kubectl("-n", NAMESPACE, "get", name)
        except KubectlError as error:
            if "Forbidden" not in str(error):
                raise
            return False
        return True

    def list_is_refused(self, kind: str) -> bool:
        with pytest.raises(KubectlError, match="Forbidden"):
            self._kubectl("-n", NAMESPACE, "get", kind)
        return True


@pytest.fixture
def token(cluster: Cluster, tmp_path: Path) -> NodeToken:
    return NodeToken(Kubectl(operator_process.kubeconfig(cluster, tmp_path / "kubeconfig", "oneagent-csi-driver")))


@pytest.fixture
def unmonitored() -> Iterator[Callable[..., Manifest]]:
    """A DynaKube that selects nothing, with these fields."""

    def make(name: str, api_url: str, **spec: Any) -> Manifest:
        made = dynakubes.dynakube(name, api_url, f"{name}-nobody")
        return {**made, "spec": {**made["spec"], **spec}}

    yield make


def config_map(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}, "data": {}}


def test_it_is_what_dynakubes_name_as_long_as_they_do(
    token: NodeToken,
    kubectl: Kubectl,
    tenant: Tenant,
    apply: Apply,
    unmonitored: Callable[..., Manifest],
    wait_for: WaitFor,
) -> None:
    secrets = ("reader", "reader-pull", "reader-proxy", "reader-keys", "reader-other")
    apply(*(dynakubes.secret(name, tenant.token) for name in secrets), config_map("reader"))
    everything = sorted(NAMED | OTHERS)
    found = ("-n", NAMESPACE, "get", "--ignore-not-found", "-o", "name", *everything)
    wait_for(lambda: len(kubectl(*found).split()) == len(everything), "the operator has made its certificates")
    assert [name for name in everything if token.reads(name)] == []
    kube = unmonitored(
        "reader",
        tenant.api_url,
        customPullSecret="reader-pull",
        proxy={"valueFrom": "reader-proxy"},
        trustedCAs="reader",
    )
    annotations = {"feature.dynatrace.com/code-modules-image-key": "reader-keys"}
    apply({**kube, "metadata": {**kube["metadata"], "annotations": annotations}})
    wait_for(lambda: all(map(token.reads, NAMED)), "nodes may read what the DynaKube names", within=5)
    assert [name for name in OTHERS if token.reads(name)] == []
    assert token.list_is_refused("secrets") and token.list_is_refused("configmaps")

    apply(unmonitored("reader", tenant.api_url, tokens="reader-other"))
    wait_for(lambda: token.reads("secret/reader-other"), "nodes may read the other Secret", within=5)
    assert [name for name in NAMED if token.reads(name)] == []

    kubectl("-n", NAMESPACE, "delete", "dynakube", "reader", "--timeout=20s")
    assert not token.reads("secret/reader-other")


def test_a_new_dynakube_is_read_and_installed_within_seconds(
    driver: Installed,
    dynatrace: Tenant,
    apply: Apply,
    release: Release,
    unmonitored: Callable[..., Manifest],
    dynakube_reader: DynaKubeReader,
    wait_for: WaitFor,
    record_property: Callable[[str, object], None],
) -> None:
    version = release()
    apply(dynakubes.secret("quick", dynatrace.token))
    started = time.monotonic()
    apply(unmonitored("quick", dynatrace.api_url))
    wait_for(lambda: version in driver.versions(), "the version is in the store", within=10)
    record_property("seconds from a new DynaKube to its version on the node", round(time.monotonic() - started, 1))
    dynakube_reader.wait_condition("quick", "NodeAccess", "True", within=5)


@pytest.mark.parametrize("name", sorted(secret_names.RESERVED))
def test_the_keys_of_the_webhook_are_refused_and_others_do_not_notice(
    name: str,
    token: NodeToken,
    tenant: Tenant,
    apply: Apply,
    unmonitored: Callable[..., Manifest],
    dynakube_reader: DynaKubeReader,
    wait_for: WaitFor,
) -> None:
    apply(unmonitored("greedy", tenant.api_url, tokens=name))
    apply(dynakubes.secret("modest", tenant.token), unmonitored("modest", tenant.api_url))
    condition = dynakube_reader.wait_condition("greedy", "Spec", "False", "spec.tokens")
    assert f"'{name}': name another Secret" in condition["message"]
    wait_for(lambda: token.reads("secret/modest"), "nodes may read the other DynaKube's Secret", within=5)
    dynakube_reader.wait_condition("modest", "NodeAccess", "True", within=5)
    assert not token.reads(f"secret/{AUTHORITY}")


def test_the_authorities_of_packages_come_to_nodes_without_a_secret(
    rights: Path, kubectl: Kubectl, wait_for: WaitFor
) -> None:
    text = generate.template(values=json.dumps({"packages": {"mirror": True}}))
    wanted = {("Role", "oneagent-operator"), ("ConfigMap", ca_bundle.NAME)}
    shipped = [one for one in yaml.safe_load_all(text) if one and (one["kind"], one["metadata"]["name"]) in wanted]
    try:
        kubectl.apply(*shipped)

        def published() -> bool:
            data = kubectl.json("-n", NAMESPACE, "get", "configmap", ca_bundle.NAME).get("data", {})
            secret = kubectl.json("-n", NAMESPACE, "get", "secret", AUTHORITY)["data"]
            return bool(data == {"ca.crt": base64.b64decode(secret["ca.crt"]).decode()})

        wait_for(published, "the ConfigMap has the CA")
        kubectl.apply(*shipped)
        assert published(), "an upgrade keeps it"
    finally:
        kubectl.delete(*(one for one in shipped if one["kind"] == "ConfigMap"))
        operator_process.install_rights(kubectl)


def test_the_operator_can_give_nodes_nothing_that_it_has_not(rights: Path, kubectl: Kubectl) -> None:
    operator = Kubectl(rights)
    more = '{"rules": [{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["delete"]}]}'
    with pytest.raises(KubectlError, match="attempting to grant RBAC permissions not currently held"):
        operator("-n", NAMESPACE, "patch", "role", "oneagent-csi-driver-dynakubes", "--type=merge", "-p", more)
    with pytest.raises(KubectlError, match="Forbidden"):
        operator("-n", NAMESPACE, "patch", "role", "oneagent-csi-driver", "--type=merge", "-p", '{"rules": []}')
    assert kubectl("-n", NAMESPACE, "get", "role", "oneagent-csi-driver")
