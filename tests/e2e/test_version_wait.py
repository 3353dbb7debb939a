"""A pod waits for its version as long as that makes sense, and starts without it when it does not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import Apply, Release, Running, WaitFor
from tests.e2e.installation import Installed
from tests.fakes import ports
from tests.fakes.tenant import Tenant


def test_a_pod_starts_within_a_second_of_the_arrival_of_its_version(
    driver: Installed,
    node: Node,
    dynatrace: Tenant,
    apply: Apply,
    running: Running,
    release: Release,
    namespace: str,
    record_property: Callable[[str, object], None],
) -> None:
    version = release(filler=24 << 20)
    dynatrace.bytes_per_second = 3 << 20
    try:
        apply(*manifests.with_access(*manifests.dynakube(namespace, dynatrace.api_url, version)))
        apply(manifests.pod("early", namespace, namespace))
        pod = running(namespace, "early")
    finally:
        dynatrace.bytes_per_second = 0
    (tree,) = driver.data.agents.glob(f"{version}_*")
    arrived = tree.stat().st_ctime
    first = node.first_process(pod, "shop")
    waited = _started(first) - arrived
    record_property("seconds from the version's arrival to the application's start", round(waited, 2))
    assert manifests.created(pod) < arrived, "the version was there before the pod: nothing was proven"
    assert 0 < waited < 1
    assert PRELOAD_LIBRARY in Path(f"/proc/{first}/maps").read_text()


def test_without_its_tenant_a_pod_starts_with_an_empty_view_and_an_event_says_why(
    driver: Installed,
    kubectl: Kubectl,
    apply: Apply,
    running: Running,
    namespace: str,
    wait_for: WaitFor,
) -> None:
    nobody = f"http://{Node.address}:{ports.free()}/api"
    version = "1.299.0.20261001-120000"
    apply(*manifests.with_access(*manifests.dynakube(namespace, nobody, version, max_csi_mount_attempts="2")))
    apply(manifests.pod("blind", namespace, namespace))
    running(namespace, "blind", within=90)
    assert kubectl("-n", namespace, "exec", "blind", "--", "ls", f"{manifests.AGENT}/agent") == "conf\nlib64\n"
    assert "preloaded" not in kubectl("-n", namespace, "logs", "blind"), "the loader found the inert library"

    def event() -> str:
        found = kubectl.json("-n", namespace, "get", "events", "--field-selector", "reason=AgentNotMounted")["items"]
        return str(found[0]["message"]) if found else ""

    message = wait_for(event, "an Event on the pod says why it has no agent", every=0.5)
    assert version in message and "2 mount attempts failed" in message and "cannot connect" in message


def _started(process: int) -> float:
    """When a process was started, in seconds since the epoch; to the hundredth."""
    ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
