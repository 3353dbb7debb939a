"""Each mode decides the versions that it needs: the pinned one, else the newest, and never an older one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.e2e import dynakubes, operator_process
from tests.e2e.dynakubes import DynaKubeReader
from tests.e2e.fixture_types import Apply, WaitFor
from tests.fakes import packages
from tests.fakes.tenant import Tenant

NEWER: Final = "1.278.0.20231014-094321"
OLDER: Final = "1.276.0.20230814-094321"


@pytest.mark.parametrize(
    ("mode", "conditions"),
    [
        ("applicationMonitoring", {"CodeModulesVersion", "NamespaceMapping"}),
        ("cloudNativeFullStack", {"CodeModulesVersion", "NamespaceMapping", "OneAgentVersion"}),
        ("hostMonitoring", {"OneAgentVersion"}),
        ("classicFullStack", {"OneAgentVersion"}),
    ],
)
def test_each_decides_the_versions_that_it_needs(
    mode: str,
    conditions: set[str],
    operator: operator_process.Operator,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
) -> None:
    apply(dynakubes.dynakube("one", tenant.api_url, "m", mode), dynakubes.secret("one", tenant.token))
    for kind in conditions:
        dynakube_reader.wait_condition("one", kind, "True")
    status = dynakube_reader.status("one")
    kinds = {condition["type"] for condition in status["conditions"]}
    assert {"Ready", "Tokens", "OneAgentConnectionInfo"} | conditions <= kinds
    assert ("codeModules" in status) == ("CodeModulesVersion" in conditions)
    assert ("version" in status["oneAgent"]) == ("OneAgentVersion" in conditions)
    assert ("OneAgentDaemonSet" in kinds) == ("OneAgentVersion" in conditions)


def test_the_tenants_latest_is_followed_up_but_never_down(
    operator: operator_process.Operator,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
    tmp_path: Path,
    wait_for: WaitFor,
) -> None:
    asked = {"metadata": {"annotations": {"feature.dynatrace.com/poll-interval": "5s"}}}
    manifest = dynakubes.dynakube("up", tenant.api_url, "v")
    apply({**manifest, "metadata": {**manifest["metadata"], **asked["metadata"]}}, dynakubes.secret("up", tenant.token))
    wait_for(
        lambda: dynakube_reader.status("up").get("codeModules", {}).get("version") == packages.VERSION,
        "the latest version",
    )
    tenant.release(NEWER, packages.build(tmp_path / "newer.zip", NEWER))
    wait_for(lambda: dynakube_reader.status("up")["codeModules"]["version"] == NEWER, "the newer version", within=30)
    tenant.withdraw(NEWER)
    # Asked again at once, since there may be another token.
    apply(dynakubes.secret("up", tenant.token, note="renewed"))
    dynakube_reader.wait_condition("up", "CodeModulesVersion", "True", "older than")
    assert dynakube_reader.status("up")["codeModules"]["version"] == NEWER


def test_a_pinned_version_is_taken_even_if_it_is_older(
    operator: operator_process.Operator,
    tenant: Tenant,
    apply: Apply,
    dynakube_reader: DynaKubeReader,
    wait_for: WaitFor,
) -> None:
    apply(dynakubes.dynakube("pin", tenant.api_url, "v"), dynakubes.secret("pin", tenant.token))
    wait_for(
        lambda: dynakube_reader.status("pin").get("codeModules", {}).get("version") == packages.VERSION,
        "the latest version",
    )
    apply(dynakubes.dynakube("pin", tenant.api_url, "v", version=OLDER))
    wait_for(lambda: dynakube_reader.status("pin")["codeModules"]["version"] == OLDER, "the pinned version", within=5)
