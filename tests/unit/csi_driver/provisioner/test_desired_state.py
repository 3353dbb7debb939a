"""The desired state as a pure function: rows and install requests, without threads, network or database."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from oneagent.common import dynakube as dynakubes
from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import DynaKubeName, StoreKey, TenantId, Version
from oneagent.common.oci import reference
from oneagent.common.tenant.image_resolver import ImageState, MemorySignatures
from oneagent.common.tenant.poll import TenantState
from oneagent.csi_driver.data_dir import LayerId
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import desired_state, package_sources
from oneagent.csi_driver.provisioner.desired_state import Inputs
from oneagent.csi_driver.store import store_key
from tests.fakes import provisioner

LATEST = Version("1.278.0.20231014-094321")
DEMO = DynaKubeName("demo")
TENANT = TenantId("abc12345")
LAYER = LayerId("0123456789abcdef")
SIGNED, UNSIGNED = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
IMAGE = "registry.example/agent:1"


def dynakube(name: str = DEMO, **fields: Any) -> DynaKube:
    return dynakubes.from_object(provisioner.manifest(name, "https://abc12345.example/api", **fields))


def key(version: str) -> StoreKey:
    found = package_sources.version_key(dynakube(), Version(version))
    assert found is not None
    return found


OLD, NEW = key("1.277.0.20230914-094321"), key(LATEST)


def inputs(state: TenantState | None, *, stored: tuple[Version, ...] = (), row: DesiredState | None = None) -> Inputs:
    return Inputs(
        rows={row.name: row} if row else {},
        tenants={DEMO: state} if state else {},
        trees={version: Path("/data/agents", version) for version in stored},
        records={},
        contents={},
        signatures=MemorySignatures(),
    )


def write_layer(_dynakube: DynaKube, _tenant: TenantState, _row: DesiredState, _tree: Path) -> LayerId:
    return LAYER


def desired(kube: DynaKube, given: Inputs) -> DesiredState:
    return desired_state.find_desired([kube], given, write_layer)[kube.name]


ANSWER = TenantState(polled_at=1.0, tenant=TENANT, latest=LATEST, complete=True)
STORED = DesiredState(
    DEMO, tenant=TENANT, version=OLD, layer=LAYER, good_version=OLD, good_layer=LAYER, host_tenant=True
)


def test_an_error_that_nobody_has_expected_is_in_the_condition_of_its_dynakube_alone() -> None:
    def write(kube: DynaKube, tenant: TenantState, row: DesiredState, tree: Path) -> LayerId:
        if kube.name == DEMO:
            raise TypeError("of a secret kind")
        return write_layer(kube, tenant, row, tree)

    given = inputs(ANSWER, stored=(OLD, NEW), row=STORED)
    other = dynakube("other")
    given = dataclasses.replace(given, tenants={**given.tenants, other.name: ANSWER})
    rows = desired_state.find_desired([dynakube(), other], given, write)
    condition = "internal error (TypeError): see the provisioner's log"
    assert rows[DEMO] == dataclasses.replace(STORED, condition=condition)
    assert (rows[other.name].version, rows[other.name].condition) == (NEW, "")


class TestARow:
    def test_before_the_first_poll_stays_as_it_was(self) -> None:
        assert desired(dynakube(), inputs(None, row=STORED)) == STORED
        assert desired(dynakube(), inputs(None)).condition == "the tenant is being polled"

    def test_says_why_there_is_no_version(self) -> None:
        failed = TenantState(polled_at=1.0, problem="cannot connect", failures=1)
        assert desired(dynakube(), inputs(failed)).condition == "cannot connect"

    def test_keeps_the_fallback_while_the_next_version_is_missing(self) -> None:
        row = desired(dynakube(), inputs(ANSWER, stored=(OLD,), row=STORED))
        assert (row.version, row.good_version, row.good_layer) == (NEW, OLD, LAYER)
        assert row.condition == f"version {LATEST} is not in the store yet (pending)"

    def test_is_complete_with_a_stored_version(self) -> None:
        row = desired(dynakube(), inputs(ANSWER, stored=(NEW,)))
        assert (row.version, row.layer, row.good_version, row.good_layer) == (NEW, LAYER, NEW, LAYER)
        assert row.condition == ""

    def test_has_no_fallback_of_another_tenant(self) -> None:
        moved = dataclasses.replace(ANSWER, tenant=TenantId("other"))
        assert desired(dynakube(), inputs(moved, stored=(OLD,), row=STORED)).good_version == ""

    def test_of_an_arriving_version_has_its_layer_but_no_fallback_yet(self) -> None:
        given = dataclasses.replace(inputs(ANSWER), arriving={NEW: Path("/data/tmp/new.tree")})
        row = desired(dynakube(), given)
        assert (row.layer, row.good_version, row.condition) == (LAYER, "", "")

    def test_has_the_reason_of_a_failed_install(self) -> None:
        record = VersionRecord(NEW, VersionState.FAILED, message="no space")
        given = dataclasses.replace(inputs(ANSWER), records={NEW: record})
        assert desired(dynakube(), given).condition == f"version {LATEST} can't be installed: no space"

    def test_says_that_its_layer_can_not_be_written(self) -> None:
        def fail(*_: object) -> LayerId:
            raise OSError(28, "No space left on device")

        row = desired_state.find_desired([dynakube()], inputs(ANSWER, stored=(NEW,)), fail)[DEMO]
        assert row.condition == "its configuration can't be written: No space left on device"

    def test_of_an_image_that_must_not_be_pulled_waits_for_a_preload(self) -> None:
        kube = dynakube(image=f"registry.example/agent@{SIGNED}", pull_policy="Never")
        wanted = store_key.of_image(SIGNED)
        row = desired(kube, inputs(ANSWER))
        assert (row.version, row.good_version) == (wanted, "")
        assert row.condition.endswith("is not in the store: preload it, or change its pull policy")
        assert desired_state.find_missing([kube], {DEMO: row}, inputs(ANSWER)) == []
        stored = desired(kube, inputs(ANSWER, stored=(wanted,)))
        assert (stored.good_version, stored.condition) == (wanted, "")
        others = [dynakube(image=f"registry.example/agent@{SIGNED}")]
        missing = desired_state.find_missing(others, {DEMO: row}, inputs(ANSWER))
        assert [request.version for request in missing] == [wanted]

    def test_without_views_wants_no_version(self) -> None:
        row = desired(dynakube(mode="hostMonitoring"), inputs(None, row=STORED))
        assert (row.version, row.layer, row.good_version) == ("", "", "")


class TestASignedImage:
    @pytest.fixture
    def kube(self) -> DynaKube:
        return dynakube(image=IMAGE, annotations={"code-modules-image-key": "image-keys"})

    def state(self, digest: str, keys: frozenset[str] | None) -> TenantState:
        resolved = reference.parse(IMAGE).at(digest)
        return dataclasses.replace(ANSWER, image=ImageState(IMAGE, resolved, keys, problem="it is not signed"))

    def given(self, state: TenantState, *stored: Version, row: DesiredState | None = None) -> Inputs:
        signatures = MemorySignatures()
        signatures._signers[SIGNED] = frozenset({"key"})
        return dataclasses.replace(inputs(state, stored=stored, row=row), signatures=signatures)

    def test_is_desired_once_it_is_known_to_be_signed(self, kube: DynaKube) -> None:
        row = desired(kube, self.given(self.state(SIGNED, frozenset({"key"}))))
        assert row.version == store_key.of_image(SIGNED)

    def test_stays_when_the_tag_moves_to_an_unsigned_one(self, kube: DynaKube) -> None:
        before = store_key.of_image(SIGNED)
        row = DesiredState(DEMO, tenant=TENANT, version=before, good_version=before)
        found = desired(kube, self.given(self.state(UNSIGNED, frozenset({"key"})), before, row=row))
        assert (found.version, found.condition) == (before, "it is not signed")

    def test_is_not_desired_by_another_key(self, kube: DynaKube) -> None:
        before = store_key.of_image(SIGNED)
        row = DesiredState(DEMO, tenant=TENANT, version=before, good_version=before)
        found = desired(kube, self.given(self.state(SIGNED, frozenset({"other"})), before, row=row))
        assert (found.version, found.good_version) == ("", "")

    def test_stays_while_the_keys_can_not_be_read(self, kube: DynaKube) -> None:
        before = store_key.of_image(UNSIGNED)
        row = DesiredState(DEMO, tenant=TENANT, version=before)
        assert desired(kube, self.given(self.state(SIGNED, None), before, row=row)).version == before


class TestMissingVersions:
    def test_are_requested_once_for_all_dynakubes(self) -> None:
        kubes = [dynakube("a"), dynakube("b")]
        given = dataclasses.replace(inputs(None), tenants={kube.name: ANSWER for kube in kubes})
        rows = desired_state.find_desired(kubes, given, write_layer)
        (request,) = desired_state.find_missing(kubes, rows, given)
        assert (request.version, request.dynakubes) == (NEW, tuple(kubes))

    def test_are_not_requested_before_the_first_poll(self) -> None:
        rows = {DEMO: STORED}
        assert desired_state.find_missing([dynakube()], rows, inputs(None, row=STORED)) == []

    def test_are_not_those_in_the_store(self) -> None:
        given = inputs(ANSWER, stored=(NEW,))
        rows = desired_state.find_desired([dynakube()], given, write_layer)
        assert desired_state.find_missing([dynakube()], rows, given) == []
