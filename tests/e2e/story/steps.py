"""Steps that the stories share, with assertions on what a user sees."""

from __future__ import annotations

from typing import Any, Final

import pytest
import yaml

from oneagent.operator.reconcilers import node_access
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story import documented_commands, leftovers
from tests.e2e.story.administrator import SHOP, Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.webhook.applications import Pod

FIRST: Final = "1.277.0.20230914-094321"
SECOND: Final = "1.278.0.20231002-081530"
NEVER: Final = "1.279.0.20231101-120000"
"""Of the agent. The tenant never releases the last one."""


def refuse_what_cannot_work(kubectl: Kubectl) -> None:
    """With the two sentences that the page on DynaKubes shows."""
    nobody = {"namespaceSelector": {"matchLabels": {"team": "nobody"}}}
    spec = {"apiUrl": "", "oneAgent": {"applicationMonitoring": nobody, "hostMonitoring": {}}}
    wrong = {"apiVersion": "dynatrace.com/v1beta6", "kind": "DynaKube", "metadata": {"name": "wrong"}, "spec": spec}
    with pytest.raises(KubectlError) as refused:
        kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=yaml.safe_dump(wrong))
    said = str(refused.value)
    assert documented_commands.blocks(documented_commands.DYNAKUBE, "What is rejected")[0].strip() in said, said


def node_access_role(kubectl: Kubectl) -> tuple[str, Any]:
    """Version and rules of the Role by which nodes read what DynaKubes name."""
    role = kubectl.json("-n", NAMESPACE, "get", "role", node_access.ROLE)
    return role["metadata"]["resourceVersion"], role["rules"]


def outlive_an_upgrade(kubectl: Kubectl, user: Administrator, shop: ShopNamespace, *pods: Pod) -> None:
    """Pods that run keep what they have."""
    before = [shop.running(pod) for pod in pods]
    parts = ("csidriver", "operator", "webhook")
    user.upgrades("webhook.timeoutSeconds=7", *(f"{part}.podAnnotations.owner=shop" for part in parts))
    timeouts = "jsonpath={.webhooks[*].timeoutSeconds}"
    assert kubectl("get", "mutatingwebhookconfiguration", "oneagent-webhook", "-o", timeouts) == "7 7"
    assert [shop.running(shop.ready(pod["metadata"]["name"])) for pod in pods] == before


def leave_nothing(
    cluster: Cluster, user: Administrator, shop: ShopNamespace, objects: set[str], node: set[str]
) -> None:
    """But what was there before; on the node a folder, of which the page says how it is removed."""
    shop.ends("--all")
    user.uninstalls()
    user.types(f"kubectl label namespace {SHOP} team-")
    left = leftovers.of_cluster(cluster) - objects, leftovers.left_on_node(cluster, node)
    assert left == (set(), set()), left
    user.cleans_up_the_node()
    assert leftovers.of_node(cluster) - node == set()
