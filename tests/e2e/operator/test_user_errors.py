"""Mistakes of tenants and owners: a condition names them, the decided version stays, other DynaKubes are untouched."""

from __future__ import annotations

from tests.cluster.kubectl import Kubectl
from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply
from tests.e2e.manifests import NAMESPACE
from tests.fakes import packages
from tests.fakes.tenant import Fault, Tenant


def test_a_tenant_that_fails_changes_nothing_and_is_asked_again(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader, kubectl: Kubectl
) -> None:
    apply(dynakubes.namespace("fail-1", "f"))
    apply(dynakubes.dynakube("fail", tenant.api_url, "f"), dynakubes.secret("fail", tenant.token))
    dynakube_reader.wait_condition("fail", "Ready", "True")
    before = dynakube_reader.status("fail")
    faults = [
        Fault(status=429, headers={"Retry-After": "1"}),
        Fault(status=503),
        Fault(body=b"<html>not JSON</html>"),
        Fault(cut_after=3),
    ]
    for number, fault in enumerate(faults):
        # Some of them are for the driver, if earlier tests have installed it: it asks the tenant, too.
        tenant.plan("connection", *[fault] * 20)
        apply(dynakubes.secret("fail", tenant.token, note=f"wrong {number}"))
        dynakube_reader.wait_condition("fail", "OneAgentConnectionInfo", "False")
        tenant.clear_faults()
        status = dynakube_reader.status("fail")
        assert status["codeModules"]["version"] == before["codeModules"]["version"]
        assert status["oneAgent"]["connectionInfoStatus"]["tenantUUID"] == tenant.tenant
        assert dynakube_reader.owners("fail-") == {"fail-1": "fail"}
        apply(dynakubes.secret("fail", tenant.token, note=f"right {number}"))
        dynakube_reader.wait_condition("fail", "OneAgentConnectionInfo", "True")


def test_a_tenant_that_does_not_answer_stops_nothing_else(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader
) -> None:
    tenant.plan("scopes", Fault(stall_after=0))
    apply(dynakubes.namespace("mute-1", "q"))
    apply(dynakubes.dynakube("mute", tenant.api_url, "q"), dynakubes.secret("mute", tenant.token))
    dynakube_reader.wait_owners("mute-", {"mute-1": "mute"}, within=10)
    dynakube_reader.wait_condition("mute", "Tokens", "Unknown", "not been polled yet", within=5)


def test_one_that_cannot_be_read_says_so_keeps_what_was_decided_and_can_go(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader, kubectl: Kubectl
) -> None:
    apply(dynakubes.namespace("odd-1", "odd"))
    apply(dynakubes.dynakube("odd", tenant.api_url, "odd"), dynakubes.secret("odd", tenant.token))
    dynakube_reader.wait_condition("odd", "Ready", "True")
    kubectl("-n", NAMESPACE, "patch", "dynakube", "odd", "--type=merge", "-p", '{"spec": {"apiUrl": null}}')
    dynakube_reader.wait_condition("odd", "Spec", "False", "spec.apiUrl")
    assert dynakube_reader.status("odd")["codeModules"]["version"] == packages.VERSION
    assert dynakube_reader.owners("odd-") == {"odd-1": "odd"}
    kubectl("-n", NAMESPACE, "delete", "dynakube", "odd", "--timeout=20s")
    dynakube_reader.wait_owners("odd-", {"odd-1": ""})
    assert operator.leads()


def test_certificates_that_are_none_are_a_problem_of_this_dynakube_alone(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader
) -> None:
    authorities = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cas", "namespace": NAMESPACE}}
    apply({**authorities, "data": {"certs": "# von Jürgen"}})
    manifest = dynakubes.dynakube("cas", tenant.api_url, "cas")
    apply({**manifest, "spec": {**manifest["spec"], "trustedCAs": "cas"}}, dynakubes.secret("cas", tenant.token))
    apply(dynakubes.dynakube("well", tenant.api_url, "well"), dynakubes.secret("well", tenant.token))
    dynakube_reader.wait_condition("cas", "OneAgentConnectionInfo", "False")
    dynakube_reader.wait_condition("well", "Ready", "True")
