"""The stand-in for a tenant that the page on kind and minikube starts: on a real kubelet, with that page's label."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import Kubectl
from tests.cluster.node import Node
from tests.e2e import manifests
from tests.e2e.fixture_types import WaitFor
from tests.e2e.webhook.applications import Applications


def in_page(pattern: str) -> str:
    """The part of the page on kind that a pattern's group matches."""
    (found,) = re.findall(pattern, Path("docs/kind.md").read_text(), re.MULTILINE)
    return str(found)


@pytest.fixture
def written(webhook: None, kubectl: Kubectl, tmp_path: Path) -> Iterator[Path]:
    """The file that `make tenant` writes, while the stand-in serves."""
    file = tmp_path / "demo.yaml"
    command = [sys.executable, "-m", "tests.demo.tenant", f"--host={Node.address}", "--port=0", f"--file={file}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None
            assert "serves version" in serving.stdout.readline()
            yield file
            kubectl("delete", "-f", str(file), "--ignore-not-found")
        finally:
            serving.terminate()


def test_a_pod_gets_the_stand_ins_agent_by_the_commands_of_the_page(
    written: Path, cluster: Cluster, kubectl: Kubectl, wait_for: WaitFor
) -> None:
    kubectl("apply", "-f", str(written))
    kubectl(*in_page(r"^kubectl apply -f build/tenant/demo.yaml\nkubectl (.*)$").split(), timeout=130)
    namespace = manifests.namespace("stand-in")
    key, _, value = in_page(r"label namespace my-shop (\S+)").partition("=")
    namespace["metadata"]["labels"][key] = value
    kubectl.apply(namespace)
    applications = Applications(cluster, "stand-in", wait_for)
    pod = applications.started(manifests.application("cart", "stand-in"), within=90)
    process = cluster.node.first_process(pod, "shop")
    assert in_page(r"exec cart -- grep -m 1 (\w+)") in Path(f"/proc/{process}/maps").read_text()
    kubectl.delete(namespace, wait=False)
