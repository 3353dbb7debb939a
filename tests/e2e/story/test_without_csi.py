"""The story without the node driver: pods fetch their agent from the operator."""

from __future__ import annotations

import time

from tests.cluster.cluster import Cluster
from tests.e2e.story import leftovers, resource_usage, steps
from tests.e2e.story.administrator import SHOP, Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.story.conftest import Publish, Vanish
from tests.e2e.story.steps import FIRST, NEVER, SECOND
from tests.fakes.tenant import Tenant


def test_from_an_empty_cluster_to_an_empty_cluster(
    cluster: Cluster, user: Administrator, shop: ShopNamespace, dynatrace: Tenant, publish: Publish, vanish: Vanish,
    record_property: resource_usage.Record,
) -> None:  # fmt: skip
    before = leftovers.of_cluster(cluster), leftovers.of_node(cluster)
    started = time.monotonic()
    publish(FIRST)
    user.installs("csidriver.enabled=false")
    user.monitors(dynatrace.api_url)
    shop.set_operator_address()
    cart = shop.starts("cart")
    seconds = round(time.monotonic() - started, 1)
    record_property("seconds from `helm install` to the first injected pod, without CSI", seconds)
    shop.has_agent(cart, FIRST)

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
