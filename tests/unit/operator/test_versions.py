"""Which version of the host agent is decided, and when it moves on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.api import conversion, fields
from oneagent.common.names import Version
from oneagent.operator import api, asking
from oneagent.operator.concerns import versions
from oneagent.operator.observed import Observed
from oneagent.operator.worker import Round

OLD, NEW = "1.277.0.20230914-094321", "1.278.0.20231014-094321"


def decided(manifest: dict[str, Any], *, chosen: str = "", latest: str = NEW) -> Any:
    """The version of `status.oneAgent`, from what it was and what the tenant offers."""
    if chosen:
        manifest["status"] = {"oneAgent": {"version": chosen, "source": versions.TENANT}}
    round = Round(
        manifest=manifest,
        kube=dynakube.from_manifest(manifest),
        namespace="dynatrace",
        # No version is decided by what is in the cluster.
        api=cast("api.Api", None),
        observed=Observed(),
        facts=asking.Facts(latest=Version(latest)),
        now=0.0,
        found={},
    )
    verdict = asyncio.run(versions.HostAgent().reconcile(round))
    assert verdict is not None
    return verdict.fields["oneAgent"]["version"]


def in_version(api_version: str, *, auto_update: bool | None, **section: str) -> dict[str, Any]:
    """A DynaKube that somebody wrote in this version, as the operator reads it."""
    own: dict[str, Any] = {**section, **({} if auto_update is None else {"autoUpdate": auto_update})}
    written = {
        "apiVersion": f"dynatrace.com/{api_version}",
        "kind": "DynaKube",
        "metadata": {"name": "one", "namespace": "dynatrace"},
        "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": {"classicFullStack": own}},
    }
    return conversion.convert(written, f"dynatrace.com/{fields.NEWEST}")


@pytest.mark.parametrize("auto_update", [None, True])
def test_the_tenants_latest_is_followed(auto_update: bool | None) -> None:
    assert decided(in_version("v1beta5", auto_update=auto_update), chosen=OLD) == NEW


def test_without_automatic_update_a_version_stays_once_it_is_chosen() -> None:
    assert decided(in_version("v1beta5", auto_update=False), chosen=OLD) == OLD


def test_without_automatic_update_the_first_version_is_still_the_tenants_latest() -> None:
    assert decided(in_version("v1beta1", auto_update=False)) == NEW


def test_without_automatic_update_a_pinned_version_moves() -> None:
    assert decided(in_version("v1beta5", auto_update=False, version=NEW), chosen=OLD) == NEW
