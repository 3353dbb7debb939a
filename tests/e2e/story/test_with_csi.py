"""The story with the node driver, as the documentation tells it: from the first command to the last trace."""

from __future__ import annotations

import time

from tests.cluster.cluster import Cluster
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import Installed
from tests.e2e.story import leftovers, resource_usage, steps
from tests.e2e.story.administrator import SHOP, Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.story.conftest import Publish, Vanish
from tests.e2e.story.steps import FIRST, NEVER, SECOND
from tests.fakes.tenant import Tenant


def test_from_an_empty_cluster_to_an_empty_cluster(
    cluster: Cluster, user: Administrator, shop: ShopNamespace, dynatrace: Tenant, publish: Publish, vanish: Vanish,
    wait_for: WaitFor, record_property: resource_usage.Record,
) -> None:  # fmt: skip
    before = leftovers.of_cluster(cluster), leftovers.of_node(cluster)
    started = time.monotonic()
    publish(FIRST)
    user.installs()
    user.monitors(dynatrace.api_url, version="v1beta1")
    cart = shop.starts("cart")
    record_property("seconds from `helm install` to the first injected pod", round(time.monotonic() - started, 1))
    shop.has_agent(cart, FIRST)
    resource_usage.record_idle(cluster, record_property)

    user.changes("annotate", "feature.dynatrace.com/poll-interval=1s")
    publish(SECOND)
    user.sees(SECOND)
    checkout = shop.starts("checkout")
    shop.has_agent(checkout, SECOND)
    shop.has_agent(cart, FIRST)
    shop.ends("cart")
    wait_for(lambda: Installed(cluster).versions() == {SECOND}, "the old version has left the store")

    vanish()
    payment = shop.starts("payment")
    shop.has_agent(payment, SECOND)
    user.changes("annotate", "feature.dynatrace.com/max-csi-mount-attempts=2")
    user.changes("annotate", "feature.dynatrace.com/mount-policy=wait")
    user.wants(NEVER, decided=NEVER)
    tell_why_a_pod_has_no_agent(user, shop, wait_for)
    user.wants(None, decided=SECOND)
    steps.refuse_what_cannot_work(cluster.kubectl)
    version, rules = steps.node_access_role(cluster.kubectl)
    steps.outlive_an_upgrade(cluster.kubectl, user, shop, checkout, payment)
    assert [rule["resourceNames"] for rule in rules] == [["shop", "shop.tenant-config"]]
    assert steps.node_access_role(cluster.kubectl) == (version, rules), "the upgrade has touched the operator's rules"
    shop.has_agent(shop.starts("gift"), SECOND)
    steps.leave_nothing(cluster, user, shop, *before)


def tell_why_a_pod_has_no_agent(user: Administrator, shop: ShopNamespace, wait_for: WaitFor) -> None:
    """What it wants can't be had: it starts all the same, and says so wherever somebody looks."""
    assert not shop.monitored(shop.starts("late"))
    wait_for(lambda: shop.events("AgentNotMounted"), "an Event says it")
    described = user.types(f"kubectl -n {SHOP} describe pod late")
    assert "AgentNotMounted" in described
    assert NEVER in described
    ask = "kubectl -n dynatrace exec daemonset/oneagent-csi-driver -c server -- oneagent-csi why"
    assert "NoAgentMounted" in user.types(f"{ask} {SHOP}/late -o json || true")
