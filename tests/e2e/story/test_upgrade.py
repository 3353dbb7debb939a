"""An upgrade from the chart as it was before, while pods run and others come.

`previous/` holds that chart, packed by Helm: the last one whose webhook gave an init container to pods with CSI. It
runs the image of this checkout under another name, so that each part's pods are replaced, as by a newer image. One pod
comes with that webhook's patch, which is recognised and left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from oneagent.common.injection import contract
from tests.cluster.cluster import Cluster
from tests.cluster.node import Node
from tests.e2e import helm, installation
from tests.e2e.fixture_types import WaitFor
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE
from tests.e2e.story import resource_usage
from tests.e2e.story.administrator import Administrator
from tests.e2e.story.applications import ShopNamespace
from tests.e2e.story.churn import DryRuns, PodArrivals
from tests.e2e.story.conftest import Publish
from tests.e2e.webhook.applications import init_containers
from tests.fakes.tenant import Tenant

VERSION: Final = "1.277.0.20230914-094321"
PREVIOUS: Final = Path("tests/e2e/story/previous/oneagent-csi-0.1.0.tgz")
_TAG: Final = "previous"


@pytest.fixture
def former(node: Node) -> Iterator[str]:
    """Another tag of the image."""
    image = f"{helm.IMAGE['repository']}:{_TAG}"
    node.ctr("images", "tag", installation.IMAGE, image)
    yield _TAG
    node.ctr("images", "remove", image)


def test_pods_do_not_notice(
    cluster: Cluster, user: Administrator, shop: ShopNamespace, dynatrace: Tenant, publish: Publish, former: str,
    wait_for: WaitFor, record_property: resource_usage.Record,
) -> None:  # fmt: skip
    publish(VERSION)
    user.installs(f"image.tag={former}", chart=str(PREVIOUS))
    user.monitors(dynatrace.api_url, version="v1beta1")
    pods = [shop.starts("cart"), shop.starts_as_before("checkout")]
    assert [init_containers(pod) for pod in pods] == [[], [contract.INIT_CONTAINER]]
    before = [shop.running(pod) for pod in pods]
    stored = shop.dynakube("v1beta1")

    with DryRuns(cluster.control_plane) as dry_runs:
        with PodArrivals(cluster.kubectl, stored) as arrivals:
            user.upgrades(f"image.tag={helm.IMAGE['tag']}")
        wait_for(lambda: not are_leaving(cluster), "the former webhooks have ended", within=60)
    assert arrivals.refusals == []
    assert dry_runs.failures == []
    assert {image for part in resource_usage.PARTS for image in images(cluster, part)} == {installation.IMAGE}

    assert [shop.running(pod) for pod in pods] == before
    for pod in (*pods, shop.starts("payment")):
        shop.has_agent(pod, VERSION)
    for pod in pods:
        shop.has_agent(shop.restarted(pod), VERSION)
    assert [name for name in arrivals.pods if not shop.monitored(shop.ready(name))] == []
    assert shop.dynakube("v1beta1")["spec"] == stored["spec"]
    record_property("pods that came during the upgrade, all injected", len(arrivals.pods))
    record_property("pods by a dry run during the upgrade, all injected", dry_runs.pods)
    shop.ends("--all")
    wait_for(lambda: not Installed(cluster).traces(), "nothing of any pod's volume is left")


def images(cluster: Cluster, part: str) -> set[str]:
    return {container["image"] for pod in resource_usage.pods(cluster, part) for container in pod["spec"]["containers"]}


def are_leaving(cluster: Cluster) -> bool:
    """Return True while a webhook drains."""
    selector = "--selector=app.kubernetes.io/component=webhook"
    found = cluster.kubectl.json("-n", NAMESPACE, "get", "pods", selector)["items"]
    return any("deletionTimestamp" in pod["metadata"] for pod in found)
