"""The reconciler against a double of the API server that records requests."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.identifiers import DynaKubeName, TenantId, Version
from oneagent.common.kubernetes.errors import InvalidError
from oneagent.common.tenant.poll import TenantState
from oneagent.operator import api, reconcile_result
from oneagent.operator.cache import Cache
from oneagent.operator.host_agents import daemonset, reconciler
from oneagent.operator.reconcile_context import ReconcileContext
from tests.unit.operator.host_agents import cases

NAME = "prod-oneagent"
TOKENS = {"kind": "Secret", "data": {"apiToken": base64.b64encode(b"dt0c01.API").decode()}}


class Server:
    """Accepts every object; `requests` records calls, `objects` holds objects by kind and name."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.objects: dict[tuple[str, str], Any] = {("Secret", "prod"): TOKENS}
        self.refuses = False

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> Any:
        self.requests.append(f"find {resource.kind} {name}")
        return copy.deepcopy(self.objects.get((resource.kind, name)))

    async def apply(self, resource: api.Resource, whole: Mapping[str, Any]) -> Any:
        if self.refuses:
            raise InvalidError("PATCH: 422: spec.template.spec.tolerations: no such operator")
        key = resource.kind, whole["metadata"]["name"]
        self.requests.append(f"apply {resource.kind} {key[1]}")
        before = self.objects.get(key, {}).get("metadata", {})
        there = copy.deepcopy(dict(whole))
        there["metadata"] |= {"uid": before.get("uid", f"uid-{len(self.requests)}")}
        there["metadata"] |= {"generation": before.get("generation", 0) + 1}
        self.objects[key] = there
        return copy.deepcopy(there)

    async def delete(self, resource: api.Resource, name: str, namespace: str = "") -> None:
        self.requests.append(f"delete {resource.kind} {name}")
        self.objects.pop((resource.kind, name), None)


class Harness:
    """A reconciler, a server, and DynaKubes."""

    def __init__(self) -> None:
        self.server, self.agents = Server(), reconciler.HostAgentReconciler("0.1.0")
        self.observed = Cache(cluster_id="c0ffee", csi_installed=True)
        self.tenant_state = TenantState(
            polled_at=1.0,
            tenant=TenantId("abc12345"),
            tenant_token="token",
            endpoints=("https://ag.example",),
            latest=Version(cases.VERSION),
        )
        self.decided, self.now = cases.VERSION, 1000.0

    def reconcile(
        self, case: dict[str, Any], *, finalize: bool = False, **metadata: Any
    ) -> reconcile_result.ReconcileResult | None:
        """Run the reconciler once with the current objects."""
        obj = cases.obj(case)
        obj["metadata"] |= metadata
        self.observed.dynakubes[DynaKubeName(obj["metadata"]["name"])] = obj
        sets = {name: thing for (kind, name), thing in self.server.objects.items() if kind == "DaemonSet"}
        self.observed.daemon_sets = copy.deepcopy(sets)
        self.server.requests.clear()
        found = {"OneAgentVersion": reconcile_result.ok("", "", oneAgent={"version": self.decided})}
        kube, server = dynakube.from_object(obj), cast("api.Api", self.server)
        context = ReconcileContext(obj, kube, "dynatrace", server, self.observed, self.tenant_state, self.now, found)
        if finalize:
            asyncio.run(self.agents.finalize(context))
            return None
        return asyncio.run(self.agents.reconcile(context))

    def reason(self, case: dict[str, Any], **metadata: Any) -> str:
        result = self.reconcile(case, **metadata)
        return result.reason if result else "-"

    @property
    def written(self) -> list[str]:
        return [request for request in self.server.requests if not request.startswith("find")]

    @property
    def daemon_set(self) -> Any:
        return self.server.objects.get(("DaemonSet", NAME))


HOSTS: dict[str, Any] = {"mode": "hostMonitoring"}
APPS: dict[str, Any] = {"mode": "applicationMonitoring"}


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_the_first_run_applies_everything_and_the_next_one_nothing(harness: Harness) -> None:
    assert harness.reason(HOSTS) == reconciler.ROLLING
    assert harness.written == [f"apply Secret {NAME}", "apply Secret prod-pull-secret", f"apply DaemonSet {NAME}"]
    harness.reconcile(HOSTS)
    assert harness.server.requests == []


def test_after_a_start_existing_objects_are_applied_once(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.agents = reconciler.HostAgentReconciler("0.1.0")
    harness.reconcile(HOSTS)
    assert f"apply DaemonSet {NAME}" in harness.server.requests
    harness.reconcile(HOSTS)
    assert harness.server.requests == []


def test_a_change_by_another_client_is_reverted(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.daemon_set["metadata"]["generation"] += 1
    harness.reconcile(HOSTS)
    assert harness.server.requests == [f"apply DaemonSet {NAME}"]
    harness.daemon_set["metadata"]["annotations"] = {}
    harness.reconcile(HOSTS)
    assert harness.server.requests == [f"apply DaemonSet {NAME}"]
    del harness.server.objects["DaemonSet", NAME]
    harness.reconcile(HOSTS)
    assert harness.server.requests == [f"apply DaemonSet {NAME}"]


def test_a_watch_that_lags_behind_causes_no_second_writing(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.reconcile({**HOSTS, "section": {"priorityClassName": "high"}})
    harness.daemon_set["metadata"]["generation"] -= 1
    harness.reconcile({**HOSTS, "section": {"priorityClassName": "high"}})
    assert harness.server.requests == []


def test_secrets_are_written_again_after_an_hour(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.now += 3601
    harness.reconcile(HOSTS)
    assert harness.written == [f"apply Secret {NAME}", "apply Secret prod-pull-secret"]


def test_everything_is_applied_again_after_a_restore_of_the_cluster(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.daemon_set["metadata"]["generation"] -= 1
    harness.agents.forget_applied()
    harness.reconcile(HOSTS)
    assert {f"apply DaemonSet {NAME}", f"apply Secret {NAME}"} <= set(harness.server.requests)


def test_new_endpoints_reach_the_secret_and_not_the_daemon_set(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.tenant_state = dataclasses.replace(harness.tenant_state, endpoints=("https://other.example",))
    harness.reconcile(HOSTS)
    assert harness.written == [f"apply Secret {NAME}"]


def test_a_new_api_token_reaches_the_pull_secret_once_the_tenant_was_polled_with_it(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.server.objects["Secret", "prod"] = {**TOKENS, "data": {"paasToken": base64.b64encode(b"new").decode()}}
    harness.tenant_state = dataclasses.replace(harness.tenant_state, polled_at=2.0)
    harness.reconcile(HOSTS)
    assert harness.written == ["apply Secret prod-pull-secret"]


def test_a_wrong_field_leaves_what_runs(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    before = copy.deepcopy(harness.daemon_set)
    result = harness.reconcile({**HOSTS, "section": {"dnsPolicy": "mine"}})
    assert result is not None
    assert (result.status, result.reason) == ("False", reconciler.INVALID_FIELD)
    assert result.message.startswith("spec.oneAgent.hostMonitoring.dnsPolicy is 'mine': must be one of")
    assert harness.daemon_set == before
    assert harness.server.requests == []


def test_a_refusal_of_the_api_server_is_reported_in_its_words(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.server.refuses = True
    result = harness.reconcile({**HOSTS, "section": {"tolerations": [{"operator": "Sometimes"}]}})
    assert result is not None
    assert (result.status, result.reason) == ("False", reconciler.REFUSED)
    assert "spec.template.spec.tolerations" in result.message
    assert result.requeue_seconds is not None


def test_a_proxy_secret_that_is_not_there_restarts_no_agent(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    before = copy.deepcopy(harness.daemon_set)
    case = {**HOSTS, "spec": {"proxy": {"valueFrom": "our-proxy"}}}
    assert harness.reason(case) == reconciler.INVALID_FIELD
    assert harness.daemon_set == before
    harness.server.objects["Secret", "our-proxy"] = {"kind": "Secret", "data": {"proxy": "aHR0cDovL3A="}}
    assert harness.reason(case) == reconciler.ROLLING


def test_nothing_is_made_before_tenant_and_version_are_known(harness: Harness) -> None:
    tenant_state, harness.tenant_state = harness.tenant_state, TenantState()
    assert harness.reason(HOSTS) == reconciler.TENANT_UNKNOWN
    harness.tenant_state, harness.decided = tenant_state, ""
    assert harness.reason(HOSTS) == reconciler.VERSION_UNKNOWN
    assert harness.server.requests == []
    assert harness.daemon_set is None


def test_a_lost_decision_does_not_bring_an_older_agent(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.decided = "1.200.0.20200101-000000"
    result = harness.reconcile(HOSTS)
    assert result is not None
    assert result.fields["oneAgent"]["version"] == cases.VERSION
    assert harness.server.requests == []


def test_a_mode_without_host_agents_takes_them_away_and_costs_nothing_afterwards(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    assert harness.reason(APPS) == "-"
    assert set(harness.server.objects) == {("Secret", "prod")}
    harness.reconcile(APPS)
    assert harness.server.requests == []


@pytest.mark.parametrize("name", [NAME, "prod-pull-secret"])
def test_a_secret_that_is_not_ours_stays_as_it_is(harness: Harness, name: str) -> None:
    harness.reconcile(HOSTS)
    theirs = {"kind": "Secret", "metadata": {"name": name, "labels": {}}, "data": {}}
    harness.server.objects["Secret", name] = theirs
    harness.now += 3601
    result = harness.reconcile(HOSTS)
    assert result is not None
    assert (result.reason, name in result.message) == (reconciler.INVALID_FIELD, True)
    harness.reconcile(HOSTS, finalize=True)
    assert harness.server.objects["Secret", name] == theirs
    assert harness.daemon_set is None


def test_agents_that_ignore_the_proxy_do_not_wait_for_its_secret(harness: Harness) -> None:
    case = {**HOSTS, "spec": {"proxy": {"valueFrom": "our-proxy"}}, "features": {"oneagent-ignore-proxy": "true"}}
    assert harness.reason(case) == reconciler.ROLLING


def test_cleaning_may_be_repeated_and_leaves_what_is_not_ours(harness: Harness) -> None:
    theirs = {"metadata": {"name": NAME, "uid": "x", "labels": {}}}
    harness.server.objects["DaemonSet", NAME] = theirs
    harness.reconcile(HOSTS, finalize=True)
    harness.reconcile(HOSTS, finalize=True)
    assert harness.daemon_set == theirs
    assert harness.reason(HOSTS) == reconciler.NOT_OURS
    assert harness.daemon_set == theirs


def test_an_earlier_programs_daemon_set_is_replaced(harness: Harness) -> None:
    owner = [{"uid": "5f0c1d6e-0000-4000-8000-000000000001"}]
    metadata = {"name": NAME, "uid": "x", "generation": 7, "ownerReferences": owner}
    spec = {"selector": {"matchLabels": {"app.kubernetes.io/name": "oneagent"}}}
    harness.server.objects["DaemonSet", NAME] = {"metadata": metadata, "spec": spec}
    assert harness.reason(HOSTS) == reconciler.REPLACING
    assert harness.server.requests == [f"delete DaemonSet {NAME}"]
    assert harness.reason(HOSTS) == reconciler.ROLLING
    assert harness.daemon_set["spec"]["selector"]["matchLabels"] == daemonset.selector("prod")


def test_a_daemon_set_that_is_going_is_waited_for(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    harness.daemon_set["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert harness.reason(HOSTS) == reconciler.REPLACING
    assert harness.server.requests == []


def add_older_dynakube(harness: Harness, **section: Any) -> None:
    obj = cases.obj({"mode": "classicFullStack", "section": section})
    obj["metadata"] |= {"name": "elder", "creationTimestamp": "2025-01-01T00:00:00Z"}
    harness.observed.dynakubes[DynaKubeName("elder")] = obj


def test_a_younger_dynakube_gets_no_nodes_that_an_older_one_has(harness: Harness) -> None:
    add_older_dynakube(harness)
    result = harness.reconcile(HOSTS)
    assert result is not None
    assert (result.status, result.reason) == ("False", reconciler.NODES_TAKEN)
    assert "elder" in result.message
    assert harness.daemon_set is None
    assert harness.reason({**HOSTS, "features": {"multiple-osagents-on-node": "true"}}) == reconciler.ROLLING


def test_what_runs_stays_if_only_the_new_selector_meets_the_older_dynakube(harness: Harness) -> None:
    add_older_dynakube(harness, nodeSelector={"pool": "a"})
    assert harness.reason({**HOSTS, "section": {"nodeSelector": {"pool": "b"}}}) == reconciler.ROLLING
    before = copy.deepcopy(harness.daemon_set)
    assert harness.reason(HOSTS) == reconciler.NODES_TAKEN
    assert harness.daemon_set == before


def test_what_runs_goes_if_the_older_dynakube_comes_to_its_nodes(harness: Harness) -> None:
    assert harness.reason({**HOSTS, "section": {"nodeSelector": {"pool": "b"}}}) == reconciler.ROLLING
    add_older_dynakube(harness)
    assert harness.reason({**HOSTS, "section": {"nodeSelector": {"pool": "b"}}}) == reconciler.NODES_TAKEN
    assert harness.daemon_set is None


def test_a_node_that_both_selectors_select_is_named(harness: Harness) -> None:
    add_older_dynakube(harness, nodeSelector={"pool": "a"})
    harness.observed.nodes["node-7"] = {"pool": "a", "team": "x"}
    result = harness.reconcile({**HOSTS, "section": {"nodeSelector": {"team": "x"}}})
    assert result is not None
    assert "node-7" in result.message


def test_the_condition_follows_the_daemon_set(harness: Harness) -> None:
    harness.reconcile(HOSTS)
    counts = ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable", "numberReady")
    harness.daemon_set["status"] = {**dict.fromkeys(counts, 1), "observedGeneration": 1}
    labels = daemonset.selector("prod")
    harness.observed.agent_pods["p"] = {
        "metadata": {"name": "p", "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node-1"},
        "status": {"hostIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    harness.observed.agent_pods["other"] = {
        "metadata": {"name": "other", "labels": {**labels, "app.kubernetes.io/instance": "b"}}
    }
    result = harness.reconcile(HOSTS)
    assert result is not None
    assert (result.status, result.reason) == ("True", reconciler.READY)
    assert result.fields["oneAgent"] == {
        "instances": {"node-1": {"podName": "p", "ipAddress": "10.0.0.1"}},
        "version": cases.VERSION,
        "imageID": f"abc12345.live.dynatrace.com/linux/oneagent:{cases.VERSION}",
    }
