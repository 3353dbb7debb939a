"""The story without the node driver: pods fetch their agent from the operator.

The image is in a private registry, so the chart's pull secret has to reach their namespaces.
"""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from oneagent.common.injection import contract
from tests.cluster.cluster import Cluster
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story import leftovers, private_registry, resource_usage, steps
from tests.e2e.story.administrator import SHOP, Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.story.conftest import Publish, Vanish
from tests.e2e.story.steps import FIRST, NEVER, SECOND
from tests.fakes import registry as registries
from tests.fakes.registry import Registry
from tests.fakes.tenant import Tenant


def test_from_an_empty_cluster_to_an_empty_cluster(
    cluster: Cluster, user: Administrator, shop: ShopNamespace, dynatrace: Tenant, publish: Publish, vanish: Vanish,
    registry: Registry, wait_for: WaitFor, record_property: resource_usage.Record,
) -> None:  # fmt: skip
    before = leftovers.of_cluster(cluster), leftovers.of_node(cluster)
    started = time.monotonic()
    publish(FIRST)
    user.installs("csidriver.enabled=false", registry=registry.host)
    cluster.kubectl.apply(without_credentials(registry))
    user.monitors(dynatrace.api_url)
    shop.set_operator_address()
    cart = shop.starts("cart")
    seconds = round(time.monotonic() - started, 1)
    record_property("seconds from `helm install` to the first injected pod, without CSI", seconds)
    shop.has_agent(cart, FIRST)
    assert cart["spec"]["imagePullSecrets"] == [{"name": contract.PULL_SECRET}]
    assert is_refused(cluster)
    follow_the_pull_secret(cluster, user, registry, wait_for)

    user.changes("annotate", "feature.dynatrace.com/poll-interval=1s")
    publish(SECOND)
    user.sees(SECOND)
    checkout = shop.starts("checkout")
    shop.has_agent(checkout, SECOND)
    shop.has_agent(cart, FIRST)

    vanish()
    payment = shop.starts("payment")
    shop.has_agent(payment, SECOND)
    user.wants(NEVER, decided=NEVER)
    shop.comes("late")
    steps.outlive_an_upgrade(cluster.kubectl, user, shop, cart, checkout, payment)
    assert not shop.monitored(shop.ready("late"))
    assert f"version {NEVER} was not downloaded" in user.types(f"kubectl -n {SHOP} describe pod late")
    steps.refuse_what_cannot_work(cluster.kubectl)
    steps.leave_nothing(cluster, user, shop, *before)


def without_credentials(registry: Registry) -> dict[str, Any]:
    """A pod of the image in a namespace that is not monitored yet."""
    pod = manifests.application("stranger", SHOP)
    pod["spec"]["containers"][0] |= {"image": private_registry.image(registry), "imagePullPolicy": "IfNotPresent"}
    return pod


def is_refused(cluster: Cluster) -> bool:
    """Return True if that pod may not have the image, though it is on the node."""
    template = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"
    return cluster.kubectl("-n", SHOP, "get", "pod", "stranger", "-o", template) in ("ErrImagePull", "ImagePullBackOff")


def follow_the_pull_secret(cluster: Cluster, user: Administrator, registry: Registry, wait_for: WaitFor) -> None:
    """Change the administrator's Secret, then whether the namespace is monitored."""

    def secrets() -> dict[str, str]:
        found = cluster.kubectl.json("-n", SHOP, "get", "secrets")["items"]
        return {secret["metadata"]["name"]: manifests.decoded(secret) for secret in found}

    assert registry.host in secrets()[contract.PULL_SECRET]
    patch = json.dumps({"stringData": registries.pull_secret(registry.host, "mirror.example.com")})
    user.types(shlex.join(["kubectl", "-n", NAMESPACE, "patch", "secret", "registry", "--type=merge", "-p", patch]))
    wait_for(lambda: "mirror.example.com" in secrets()[contract.PULL_SECRET], "the copy follows its source")
    user.types(f"kubectl label namespace {SHOP} team-")
    wait_for(lambda: not secrets(), "the Secrets leave with the label")
    user.types(f"kubectl label namespace {SHOP} team=shop")
    wait_for(lambda: secrets().keys() == {contract.PULL_SECRET, contract.INJECTION_SECRET}, "both are back")
