"""The cluster ring's fixtures: a real cluster of one node with the driver installed, and what tests say to it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePath
from typing import Any, Final

import pytest
from deploy import generate
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.cluster import cluster as clusters
from tests.cluster import images, sandbox
from tests.cluster.kubectl import Kubectl, Manifest
from tests.cluster.node import Node
from tests.e2e import failure_report, least_privilege, manifests
from tests.e2e.fixture_types import Apply, Release, Running, T, WaitFor
from tests.e2e.installation import Installed
from tests.e2e.pod_batch import PodBatch
from tests.fakes import packages, tenant

_CLUSTER: Final = pytest.StashKey[clusters.Cluster]()
_numbers = itertools.count(1)


class Sharing(LoadScopeScheduling):  # type: ignore[misc] # It has no types.
    """How several clusters share the work: what installs something for a whole folder happens on one of them."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the directory below this one, or the module: stories share nothing, either."""
        parts = PurePath(nodeid.partition("::")[0]).relative_to("tests/e2e").parts
        return parts[-1] if parts[0] == "story" else parts[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Sharing:
    return Sharing(config, log)


def pytest_configure(config: pytest.Config) -> None:
    # Those for OpenShift have one role more than the others.
    roles = generate.CRD.with_name("openshift.yaml")
    config.pluginmanager.register(least_privilege.Privileges(manifests.NAMESPACE, Path(__file__).parent, roles))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sandbox.FOLDER_VARIABLE not in os.environ:
        raise pytest.UsageError("the cluster ring starts a cluster: run it in a sandbox, with `make e2e`")
    # Stories come first: they install everything themselves and leave nothing, and others find a driver that stays
    # for the session. Then folders, which take longest: no cluster is left with one at the end.
    top = Path(__file__).parent
    items.sort(key=lambda item: (item.path.parent != top / "story", item.path.parent == top))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the cluster has to say about it, before its objects are deleted."""
    report = yield
    cluster = item.config.stash.get(_CLUSTER, None)
    if report.failed and cluster is not None:
        report.sections.extend(failure_report.sections(cluster))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have measured is shown, not only written into a report."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[clusters.Cluster]:
    cluster = pytestconfig.stash[_CLUSTER] = clusters.Cluster()
    try:
        cluster.start(*images.built().values())
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def node(cluster: clusters.Cluster) -> Node:
    return cluster.node


@pytest.fixture(scope="session")
def kubectl(cluster: clusters.Cluster) -> Kubectl:
    return cluster.kubectl


@pytest.fixture(scope="session")
def driver(cluster: clusters.Cluster) -> Installed:
    """The driver, installed and registered."""
    installed = Installed(cluster)
    installed.install()
    return installed


@pytest.fixture(scope="session")
def dynatrace() -> Iterator[tenant.Tenant]:
    """A tenant that the cluster's pods can reach."""
    with tenant.Tenant(host=Node.address) as serving:
        yield serving


@pytest.fixture(scope="session")
def wait_for() -> WaitFor:
    def wait(condition: Callable[[], T], what: str, within: float = 30, every: float = 0.1) -> T:
        deadline = time.monotonic() + within
        while not (answer := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"in vain for {within:.0f} s: {what}")
            time.sleep(every)
        return answer

    return wait


@pytest.fixture
def apply(cluster: clusters.Cluster, kubectl: Kubectl) -> Iterator[Apply]:
    applied: list[Manifest] = []

    def apply(*manifests: Manifest) -> None:
        applied.extend(manifests)
        kubectl.apply(*manifests)

    yield apply
    # In one call, so that nothing waits for its neighbour; pods before what they need.
    first = [manifest for manifest in applied if manifest["kind"] != "Namespace"]
    if first:
        kubectl.delete(*sorted(first, key=lambda manifest: manifest["kind"] != "Pod"))
    # What is in a namespace is left alone for five seconds before it goes; every test has namespaces of its own.
    if namespaces := [manifest for manifest in applied if manifest["kind"] == "Namespace"]:
        kubectl.delete(*namespaces, wait=False)


@pytest.fixture
def namespace(kubectl: Kubectl, wait_for: WaitFor) -> Iterator[str]:
    """A namespace of the test's own, in which only restricted pods are admitted."""
    name = f"shop-{next(_numbers)}"
    kubectl.apply(manifests.namespace(name))
    yield name
    kubectl.delete(manifests.namespace(name), wait=False)


@pytest.fixture
def release(dynatrace: tenant.Tenant, tmp_path: Path) -> Release:
    """Release a version that no other test has used; `filler` bytes make its download longer."""

    def release(filler: int = 0) -> str:
        version = f"1.{300 + next(_numbers)}.0.20261001-120000"
        path = packages.build(tmp_path / f"{version}.zip", version, filler=filler, library=packages.loadable())
        dynatrace.release(version, path)
        return version

    return release


@pytest.fixture
def running(kubectl: Kubectl, wait_for: WaitFor) -> Running:
    """Wait until a pod runs; the pod."""

    def running(namespace: str, name: str, within: float = 60) -> dict[str, Any]:
        def ready() -> dict[str, Any]:
            """The pod, once it is; until then nothing."""
            pod: dict[str, Any] = kubectl.json("-n", namespace, "get", "pod", name)
            statuses = pod["status"].get("containerStatuses", [])
            return pod if statuses and all(status["ready"] for status in statuses) else {}

        return wait_for(ready, f"pod {name} runs", within=within, every=0.2)

    return running


@pytest.fixture
def pod_batch(
    driver: Installed,
    kubectl: Kubectl,
    dynatrace: tenant.Tenant,
    apply: Apply,
    release: Release,
    namespace: str,
    wait_for: WaitFor,
) -> PodBatch:
    """An empty batch; its DynaKube's version is in the store, and no volume is on the node."""
    wait_for(lambda: not driver.traces(), "earlier tests' volumes are gone")
    version = release()
    apply(*manifests.with_access(*manifests.dynakube(namespace, dynatrace.api_url, version)))
    wait_for(lambda: version in driver.versions(), "the version is in the store")
    return PodBatch(driver, kubectl, namespace, wait_for)
