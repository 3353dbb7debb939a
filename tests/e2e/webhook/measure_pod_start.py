"""How much later a pod's application starts by being injected, against the same pod that opted out.

Pods are created by turns, one after the other, and write down when their command starts. The agent is small here, so
without CSI it is the way to it that is measured, not a download over a network: `make bench-cluster` runs this.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from oneagent.common.injection import contract
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook.applications import Applications, untouched

PAIRS: Final = 30
SAY_WHEN: Final = "date +%s.%N; exec sleep infinity"


@pytest.fixture(params=["with CSI", "without CSI"])
def way(
    request: pytest.FixtureRequest, dynakube: str, monitored: str, kubectl: Kubectl, wait_for: WaitFor
) -> Iterator[str]:
    """With the driver, or with the CSIDriver taken away, as where there is none."""
    driver = [one for one in installation.manifests("csi-driver.yaml") if one["kind"] == "CSIDriver"]
    if request.param == "without CSI":
        kubectl.delete(*driver)
        find = ("-n", monitored, "get", "secret", contract.INJECTION_SECRET, "--ignore-not-found", "-o", "name")
        wait_for(lambda: kubectl(*find), "the namespace's Secret")
    yield request.param
    kubectl.apply(*driver)


def test_delay_of_a_start(
    way: str,
    applications: Applications,
    kubectl: Kubectl,
    wait_for: WaitFor,
    record_property: Callable[[str, object], None],
) -> None:
    service = kubectl.json("-n", NAMESPACE, "get", "service", "oneagent-operator")
    alias = {"ip": service["spec"]["clusterIP"], "hostnames": [f"oneagent-operator.{NAMESPACE}.svc"]}

    def start(name: str, *, opted_out: bool) -> float:
        """Seconds from the request to the application's first words."""
        pod = manifests.application(name, applications.namespace, command=SAY_WHEN)
        pod["spec"]["hostAliases"] = [alias]
        pod["metadata"]["annotations"] = {"dynatrace.com/inject": str(not opted_out).lower()}
        began = time.time()
        applications.create(pod)
        said = wait_for(lambda: words(name), f"{name} starts", 60, 0.1)
        (found,) = applications.pods(f"metadata.name={name}")
        assert untouched(found) is opted_out
        applications.kubectl("delete", "pod", name, "--wait=false", "--grace-period=0", "--force")
        return float(said) - began

    def words(name: str) -> str:
        try:
            return applications.kubectl("logs", name, "-c", "shop").strip()
        except KubectlError:
            return ""

    start("warm", opted_out=False)
    without, with_ = [], []
    for number in range(PAIRS):
        without.append(start(f"out-{number}", opted_out=True))
        with_.append(start(f"in-{number}", opted_out=False))
    delays = sorted(after - before for before, after in zip(without, with_, strict=True))
    told = {
        "not injected": statistics.median(without),
        "injected": statistics.median(with_),
        "delay p50": statistics.median(delays),
        "delay p99": delays[math.ceil(0.99 * len(delays)) - 1],
    }
    for what, seconds in told.items():
        record_property(f"{way}, {what}", f"{seconds:.3f} s")
