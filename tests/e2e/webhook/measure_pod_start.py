"""How much later a pod's application starts by being injected, against the same pod that opted out.

Pods are created by turns, one after the other, and write down when their command starts. With CSI every third pod has
the injection of the last release with an init container: `start_delay_ratio` is the delay now to the delay then.

Pods have a token of their account, as all have that do not opt out of it. Kubelet looks every 300 ms whether a pod's
volumes are mounted, and not at all for a pod without any: such a pod is measured too, since injection gives it its
first volume.

The agent is small here, so without CSI it is the way to it that is measured, not a download over a network. `make
bench-cluster` runs this.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest

from oneagent.common.injection import contract
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.e2e import installation, manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.e2e.webhook import earlier_release
from tests.e2e.webhook.applications import Applications, init_containers, untouched
from tests.e2e.webhook.conftest import DYNAKUBE

PAIRS: Final = 30
SAY_WHEN: Final = "date +%s.%N; exec sleep infinity"


WITH, WITH_FIRST_VOLUME, WITHOUT = "with CSI", "with CSI, first volume", "without CSI"


@pytest.fixture(params=[WITH, WITH_FIRST_VOLUME, WITHOUT])
def way(
    request: pytest.FixtureRequest, dynakube: str, monitored: str, kubectl: Kubectl, wait_for: WaitFor
) -> Iterator[str]:
    """With the driver, or with the CSIDriver taken away, as where there is none."""
    driver = [one for one in installation.manifests("csi-driver.yaml") if one["kind"] == "CSIDriver"]
    if request.param == WITHOUT:
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

    def start(name: str, *, opted_out: bool, earlier: bool = False) -> float:
        """Seconds from the request to the application's first words."""
        pod = manifests.application(name, applications.namespace, command=SAY_WHEN)
        pod["spec"]["hostAliases"] = [alias]
        pod["spec"]["automountServiceAccountToken"] = way != WITH_FIRST_VOLUME
        pod["metadata"]["annotations"] = {"dynatrace.com/inject": str(not opted_out).lower()}
        if earlier:
            pod = earlier_release.injected(pod, DYNAKUBE)
        began = time.time()
        applications.create(pod)
        said = wait_for(lambda: words(name), f"{name} starts", 60, 0.1)
        (found,) = applications.pods(f"metadata.name={name}")
        assert untouched(found) is opted_out
        assert (contract.INIT_CONTAINER in init_containers(found)) is (earlier or (way == WITHOUT and not opted_out))
        applications.kubectl("delete", "pod", name, "--wait=false", "--grace-period=0", "--force")
        return float(said) - began

    def words(name: str) -> str:
        try:
            return applications.kubectl("logs", name, "-c", "shop").strip()
        except KubectlError:
            return ""

    start("warm", opted_out=False)
    bare, injected, before = [], [], []
    for number in range(PAIRS):
        bare.append(start(f"out-{number}", opted_out=True))
        injected.append(start(f"in-{number}", opted_out=False))
        if way != WITHOUT:
            before.append(start(f"before-{number}", opted_out=False, earlier=True))
    told = {
        "not injected": statistics.median(bare),
        "injected": statistics.median(injected),
        **delays("", bare, injected),
    }
    if before:
        told |= delays(" before", bare, before)
        ratio = told["delay p50"] / told["delay before p50"]
        record_property(f"{way}, start_delay_ratio", f"{ratio:.2f}")
    for what, seconds in told.items():
        record_property(f"{way}, {what}", f"{seconds:.3f} s")


def delays(which: str, bare: Sequence[float], injected: Sequence[float]) -> dict[str, float]:
    """How much later each of the pods started than the bare one of its turn."""
    found = sorted(after - before for before, after in zip(bare, injected, strict=True))
    return {
        f"delay{which} p50": statistics.median(found),
        f"delay{which} p99": found[math.ceil(0.99 * len(found)) - 1],
    }
