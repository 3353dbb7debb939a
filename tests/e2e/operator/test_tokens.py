"""Tokens that do not work are told, with what to do about it, and corrections noticed."""

from __future__ import annotations

from tests.cluster.kubectl import Kubectl
from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply
from tests.e2e.manifests import NAMESPACE
from tests.fakes import packages
from tests.fakes.tenant import Tenant


def test_missing_wrong_and_too_weak_tokens_are_told_and_corrections_noticed(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader, kubectl: Kubectl
) -> None:
    apply(dynakubes.dynakube("tok", tenant.api_url, "t"))
    dynakube_reader.wait_condition("tok", "Tokens", "False", "create it with the key apiToken")
    apply(dynakubes.secret("tok", "dt0c01.WRONG.TOKEN"))
    dynakube_reader.wait_condition("tok", "Tokens", "False", "rejects the token")
    apply(dynakubes.secret("tok", f"{tenant.token} \n"))
    dynakube_reader.wait_condition("tok", "Tokens", "False", "white space")
    tenant.scopes = ["DataExport"]
    apply(dynakubes.secret("tok", tenant.token))
    dynakube_reader.wait_condition("tok", "Tokens", "False", "lacks the scope InstallerDownload")
    tenant.scopes = ["DataExport", "InstallerDownload"]
    apply(dynakubes.secret("tok", tenant.token, note="renewed"))
    dynakube_reader.wait_condition("tok", "Tokens", "True")
    events = kubectl("-n", NAMESPACE, "get", "events", "--field-selector", "involvedObject.name=tok")
    assert "TokensError" in events
    assert tenant.token not in events


def test_a_pinned_version_without_any_token_still_gets_its_status(
    operator: operator_process.Operator, tenant: Tenant, apply: Apply, dynakube_reader: DynaKubeReader
) -> None:
    apply(dynakubes.dynakube("bare", tenant.api_url, "bare", version=packages.VERSION))
    dynakube_reader.wait_condition("bare", "Tokens", "False", "the Secret bare with the tokens does not exist")
    assert dynakube_reader.status("bare")["codeModules"]["version"] == packages.VERSION
