"""A hundred pods at once."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.cluster.kubectl import Kubectl
from tests.e2e.installation import Installed
from tests.e2e.kubelet_metrics import Operations
from tests.e2e.pod_batch import PodBatch

PODS = 100


def test_a_hundred_pods_created_at_once_run_and_go_without_a_trace(
    driver: Installed, kubectl: Kubectl, pod_batch: PodBatch, record_property: Callable[[str, object], None]
) -> None:
    before = Operations.read(kubectl, "NodePublishVolume")
    start = time.monotonic()
    pod_batch.create(PODS)
    pod_batch.wait_running(PODS, within=300)
    seconds = time.monotonic() - start
    pod_batch.check_views()
    calls = Operations.read(kubectl, "NodePublishVolume") - before
    assert calls.failed == 0
    assert calls.number == PODS

    start = time.monotonic()
    pod_batch.delete()
    pod_batch.wait_nothing_is_left()
    gone = time.monotonic() - start
    kubelets = f"mean {calls.mean_ms:.1f} ms, p50 {calls.quantile(0.5)}, p99 {calls.quantile(0.99)}"
    record_property("pods started per second", round(PODS / seconds, 1))
    record_property("pods removed per second", round(PODS / gone, 1))
    record_property("NodePublishVolume, by kubelet's metric", kubelets)
