"""One operator at a time; what goes while none is there goes when one comes."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

from tests.cluster.kubectl import Kubectl
from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply, WaitFor
from tests.e2e.manifests import NAMESPACE
from tests.fakes.tenant import Tenant

LEASE_DURATION = datetime.timedelta(seconds=3)


def renewed(kubectl: Kubectl) -> datetime.datetime:
    """When the Lease was renewed last."""
    lease = kubectl.json("-n", NAMESPACE, "get", "lease", "oneagent-operator")
    return datetime.datetime.fromisoformat(lease["spec"]["renewTime"])


def test_of_two_one_leads_and_the_other_takes_over_from_a_dead_one(
    rights: Path, tmp_path: Path, wait_for: WaitFor, kubectl: Kubectl
) -> None:
    short = f"--lease-duration={LEASE_DURATION.seconds}s"
    first = operator_process.Operator(rights, tmp_path / "first.log", short, identity="first")
    second = operator_process.Operator(rights, tmp_path / "second.log", short, identity="second")
    with operator_process.running(first):
        wait_for(first.leads, "the first leads")
        with operator_process.running(second):
            wait_for(lambda: "operator started" in second.log.read_text(), "the second is up")
            seen = renewed(kubectl)
            wait_for(lambda: renewed(kubectl) - seen > LEASE_DURATION, "the first has renewed for a whole duration")
            assert not second.leads()
            first.kill()
            wait_for(second.leads, "the second takes over", within=15)
            assert second.stop() == 0
    third = operator_process.Operator(rights, tmp_path / "third.log", identity="third")
    with operator_process.running(third):
        wait_for(lambda: "operator started" in third.log.read_text(), "the third is up")
        # One that was not given back lasts for 15 s.
        wait_for(third.leads, "a Lease that was given back is taken at once", within=8)


def test_stops_at_once_at_sigterm_and_answers_its_probes_before(
    own_operator: operator_process.Operator, wait_for: WaitFor
) -> None:
    wait_for(lambda: own_operator.leads() and own_operator.ready(), "it leads and is ready")
    assert own_operator.get("/livez") == "ok\n"
    start = time.monotonic()
    assert own_operator.stop() == 0
    assert time.monotonic() - start < 4


def test_labels_and_secrets_go_with_the_dynakube_also_if_the_operator_was_away(
    rights: Path, tmp_path: Path, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader, kubectl: Kubectl
) -> None:
    operator = operator_process.Operator(rights, tmp_path / "operator.log")
    with operator_process.running(operator):
        apply(dynakubes.namespace("gone-1", "g"))
        apply(
            dynakubes.dynakube("gone", tenant.api_url, "g", useCSIDriver=False), dynakubes.secret("gone", tenant.token)
        )
        dynakube_reader.wait_condition("gone", "CodeModulesInjection", "True", "the injection Secret: 1")
        operator.kill()
        kubectl("-n", NAMESPACE, "delete", "dynakube", "gone", "--wait=false")
        assert dynakube_reader.owners("gone-") == {"gone-1": "gone"}
        operator.start()
        kubectl("-n", NAMESPACE, "wait", "--for=delete", "dynakube/gone", "--timeout=30s")
        assert dynakube_reader.owners("gone-") == {"gone-1": ""}
        assert not kubectl.json("-n", "gone-1", "get", "secrets")["items"]
