"""The operator as its manifest runs it: a pod of the image, with its own account, address and limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.kubectl import Kubectl
from tests.e2e import dynakubes, installation
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.fakes import packages
from tests.fakes.tenant import Tenant

DEPLOYMENT: Final = "deployment/oneagent-operator"
LOG: Final = ("-n", NAMESPACE, "logs", DEPLOYMENT)
SELECTOR: Final = "app.kubernetes.io/component=operator"


@pytest.fixture
def deployed(rights: Path, kubectl: Kubectl, wait_for: WaitFor) -> Iterator[None]:
    """Rolled out; the rights, which other tests need, stay when it goes."""
    whole = installation.manifests("operator.yaml")
    kubectl.apply(*whole)
    kubectl("-n", NAMESPACE, "rollout", "status", DEPLOYMENT, "--timeout=60s", timeout=70)
    yield
    kubectl.delete(*(manifest for manifest in whole if manifest["kind"] in ("Deployment", "Service")))
    wait_for(lambda: not pods(kubectl), "the operator's pod is gone")


def pods(kubectl: Kubectl) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kubectl.json("-n", NAMESPACE, "get", "pods", "-l", SELECTOR)["items"]
    return found


def test_it_does_its_work_and_has_nothing_to_complain_of(
    deployed: None, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader, kubectl: Kubectl, wait_for: WaitFor
) -> None:
    apply(dynakubes.namespace("pod-1", "pod"))
    apply(dynakubes.dynakube("pod", tenant.api_url, "pod", useCSIDriver=False), dynakubes.secret("pod", tenant.token))
    dynakube_reader.wait_condition("pod", "Ready", "True")
    dynakube_reader.wait_owners("pod-", {"pod-1": "pod"})
    assert dynakube_reader.status("pod")["codeModules"]["version"] == packages.VERSION
    assert dynakube_reader.with_secret("pod-") == {"pod-1"}
    kubectl("-n", NAMESPACE, "delete", "dynakube", "pod", "--timeout=20s")
    dynakube_reader.wait_owners("pod-", {"pod-1": ""})

    wait_for(lambda: "package server started" in kubectl(*LOG), "package server started", every=0.5)
    told = [json.loads(line) for line in kubectl(*LOG).splitlines()]
    assert "lease acquired" in {line["message"] for line in told}
    # Until there is a CA the package server logs a warning; that takes seconds.
    assert not [line for line in told if line["level"] not in ("debug", "info", "warning")]
    (pod,) = pods(kubectl)
    assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0]
