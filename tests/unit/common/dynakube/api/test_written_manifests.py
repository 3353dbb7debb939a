"""DynaKubes as users write them, of every version: they are read back as written, and mean what they meant.

Each file has the manifest and what is expected of it: the mode, the namespaces that it claims, and the beginnings of
all warnings. None is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api import conversion, versions
from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import WRITTEN, case

NAMESPACES: Final = {"shop": {"team": "shop"}, "bank": {"team": "bank"}, "kube-system": {}, "dynatrace": {}}

EACH = pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)


def test_there_are_twenty_manifests_and_more_than_one_of_each_version() -> None:
    found = [case(path)[0]["apiVersion"].partition("/")[2] for path in WRITTEN]
    assert len(WRITTEN) >= 20
    assert min(found.count(version) for version in versions.VERSIONS) > 1


@EACH
@pytest.mark.parametrize("reader", versions.VERSIONS)
def test_every_version_reads_it_and_it_comes_back_as_written(path: Path, reader: str) -> None:
    written, _ = case(path)
    stored = conversion.convert(written, f"dynatrace.com/{versions.NEWEST}")
    assert conversion.convert(stored, written["apiVersion"]) == written
    seen = conversion.convert(stored, f"dynatrace.com/{reader}")
    assert seen["apiVersion"] == f"dynatrace.com/{reader}"
    assert conversion.convert(seen, f"dynatrace.com/{versions.NEWEST}") == stored


@EACH
def test_it_has_its_mode_and_claims_the_namespaces_that_it_always_did(path: Path) -> None:
    written, expected = case(path)
    assert dynakube.from_object(written).mode == expected["mode"]
    claim = namespace_mapping.claim(
        conversion.convert(written, f"dynatrace.com/{versions.NEWEST}"), own_namespace="dynatrace"
    )
    assert [name for name, labels in NAMESPACES.items() if claim.covers(name, labels)] == expected["namespaces"]


@EACH
def test_it_is_accepted_and_all_that_has_no_effect_is_named(path: Path) -> None:
    written, expected = case(path)
    found = validation.validate(
        written, None, validation.ClusterState(own_namespace="dynatrace", namespaces=NAMESPACES)
    )
    assert found.errors == ()
    assert len(found.warnings) == len(expected["warnings"]), found.warnings
    for warning, beginning in zip(found.warnings, expected["warnings"], strict=True):
        assert warning.startswith(beginning)
