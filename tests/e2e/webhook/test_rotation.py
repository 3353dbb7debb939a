"""The operator and the webhooks, as they are installed, when the CA is lost."""

from __future__ import annotations

from typing import Final

from oneagent.operator.certificates import cluster_state
from tests.cluster.kubectl import Kubectl
from tests.e2e.fixture_types import WaitFor
from tests.e2e.manifests import NAMESPACE

SECRET: Final = "oneagent-webhook-ca"


def record(kubectl: Kubectl) -> cluster_state.Record:
    """What the operator keeps of the CA."""
    found = kubectl.json("-n", NAMESPACE, "get", "secrets", f"--field-selector=metadata.name={SECRET}")["items"]
    return cluster_state.record(found[0] if found else None)


def test_a_new_ca_is_served_by_all_webhooks_before_the_lost_one_is_no_longer_trusted(
    kubectl: Kubectl, webhook: None, wait_for: WaitFor
) -> None:
    before = record(kubectl).current
    kubectl("-n", NAMESPACE, "delete", "secret", SECRET)
    # The operator has asked each of them.
    wait_for(lambda: record(kubectl).served, "all webhooks serve a certificate of the new CA", within=90, every=0.5)
    now = record(kubectl)
    assert now.current != before
    assert now.former == before
