"""Events of the driver, written with its rights."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from oneagent.common import dynakube
from oneagent.csi_driver.dynakube_sources.api_server import KubernetesSource
from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.e2e import manifests, operator_process
from tests.e2e.fixture_types import Apply
from tests.e2e.installation import Installed
from tests.e2e.manifests import NAMESPACE

NAME: Final = "repeated"
REASON: Final = "SaidAgain"


def test_what_is_said_of_a_dynakube_again_after_a_while_is_counted(
    cluster: Cluster, driver: Installed, kubectl: Kubectl, apply: Apply, tmp_path: Path
) -> None:
    apply(*manifests.dynakube(NAME, "https://abc12345.live.dynatrace.com/api", "1.298.0.20261001-120000"))
    found = dynakube.from_object(kubectl.json("-n", NAMESPACE, "get", "dynakube", NAME))
    rights = operator_process.kubeconfig(cluster, tmp_path / "kubeconfig", "oneagent-csi-driver")
    minutes = [0]
    source = KubernetesSource(namespace=NAMESPACE, kubeconfig=rights, clock=lambda: minutes[0] * 61.0)
    for minutes[0] in range(3):
        source.event(found, "Warning", REASON, "there is still no such version")
    source.close()
    (event,) = kubectl.json("-n", NAMESPACE, "get", "events", f"--field-selector=reason={REASON}")["items"]
    assert event["count"] == 3
    assert event["involvedObject"]["name"] == NAME
