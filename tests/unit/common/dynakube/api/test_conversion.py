"""What a manifest of one version is in another: by files, and by what somebody changes in between."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api import conversion, fields, schema, version_history, versions
from oneagent.common.dynakube.mode import MODES
from oneagent.common.kubernetes import fields as kubernetes_fields
from tests.unit.common.dynakube.api.manifests import CASES, Manifest, case, plain

NEWEST = f"dynatrace.com/{versions.NEWEST}"


def dynakube_in(version: str, spec: Any = None, **annotations: str) -> Manifest:
    metadata: Manifest = {"name": "shop", "namespace": "dynatrace"}
    if annotations:
        metadata["annotations"] = {
            f"feature.dynatrace.com/{key.replace('_', '-')}": v for key, v in annotations.items()
        }
    return {"apiVersion": f"dynatrace.com/{version}", "kind": "DynaKube", "metadata": metadata, "spec": spec or {}}


def test_every_version_has_a_manifest() -> None:
    assert {case(path)[0]["apiVersion"] for path in CASES} == {f"dynatrace.com/{name}" for name in versions.VERSIONS}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_manifest_means_the_same_in_the_newest_version(path: Path) -> None:
    written, newest = case(path)
    assert plain(conversion.convert(written, NEWEST)) == plain(newest)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_is_stored_is_read_back_as_it_was_written(path: Path) -> None:
    written, newest = case(path)
    assert conversion.convert(newest, written["apiVersion"]) == written


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_manifest_and_its_newest_form_have_no_field_that_is_unknown(path: Path) -> None:
    unknown = {"spec.somethingNew", "spec.oneAgent.applicationMonitoring.flavour"}
    for manifest in case(path):
        described = version_history.described(manifest["apiVersion"].removeprefix("dynatrace.com/"))
        assert set(schema.unknown(described, manifest)) <= unknown


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_node_reads_the_same_from_a_manifest_and_from_its_newest_form(path: Path) -> None:
    written, newest = map(dynakube.from_object, case(path))
    for name in ("mode", "api_url", "pinned_version", "package", "host_group", "request_threshold_minutes", "tenant"):
        assert getattr(written, name) == getattr(newest, name)


TWO_SELECTORS: Manifest = {
    "metadataEnrichment": {"enabled": True, "namespaceSelector": {"matchLabels": {"team": "shop"}}},
    "oneAgent": {"applicationMonitoring": {"namespaceSelector": {"matchLabels": {"monitor": "yes"}}}},
}


class TestAnOlderVersionCannotHoldEverything:
    def test_the_modes_selector_is_the_one_that_v1beta1_shows(self) -> None:
        old = conversion.convert(dynakube_in("v1beta6", TWO_SELECTORS), "dynatrace.com/v1beta1")
        assert old["spec"]["namespaceSelector"] == {"matchLabels": {"monitor": "yes"}}

    def test_the_other_one_comes_back(self) -> None:
        new = dynakube_in("v1beta6", TWO_SELECTORS)
        assert conversion.convert(conversion.convert(new, "dynatrace.com/v1beta1"), NEWEST) == new

    def test_one_that_was_changed_in_v1beta1_counts_for_both(self) -> None:
        old = conversion.convert(dynakube_in("v1beta6", TWO_SELECTORS), "dynatrace.com/v1beta1")
        old["spec"]["namespaceSelector"] = {"matchLabels": {"team": "bank"}}
        spec = conversion.convert(old, NEWEST)["spec"]
        assert spec["oneAgent"]["applicationMonitoring"]["namespaceSelector"] == {"matchLabels": {"team": "bank"}}
        assert spec["metadataEnrichment"]["namespaceSelector"] == {"matchLabels": {"team": "bank"}}

    def test_a_mode_that_was_changed_in_v1beta1_takes_nothing_of_the_old_one_along(self) -> None:
        old = conversion.convert(dynakube_in("v1beta6", TWO_SELECTORS), "dynatrace.com/v1beta1")
        old["spec"]["oneAgent"] = {"hostMonitoring": {}}
        spec = conversion.convert(old, NEWEST)["spec"]
        assert spec["oneAgent"] == {"hostMonitoring": {}}


class TestTheNewestVersionCannotHoldEverything:
    written = dynakube_in("v1alpha1", {"classicFullStack": {"enabled": True, "waitReadySeconds": 60, "args": ["--a"]}})

    def test_what_only_an_old_version_knows_is_no_field_of_the_newest(self) -> None:
        new = conversion.convert(self.written, NEWEST)
        assert new["spec"]["oneAgent"]["classicFullStack"] == {"args": ["--a"]}

    def test_it_comes_back_although_something_else_was_changed(self) -> None:
        new = conversion.convert(self.written, NEWEST)
        new["spec"]["oneAgent"]["classicFullStack"]["args"] = ["--b"]
        old = conversion.convert(new, "dynatrace.com/v1alpha1")
        assert old["spec"]["classicFullStack"] == {"enabled": True, "waitReadySeconds": 60, "args": ["--b"]}

    def test_it_does_not_bring_back_a_mode_that_was_left(self) -> None:
        new = conversion.convert(self.written, NEWEST)
        new["spec"]["oneAgent"] = {"hostMonitoring": {}}
        old = conversion.convert(new, "dynatrace.com/v1alpha1")
        assert "classicFullStack" not in old["spec"]
        assert old["spec"]["infraMonitoring"] == {"enabled": True}

    def test_automatic_updates_are_told_to_readers_of_the_newest_version(self) -> None:
        old = dynakube_in("v1beta3", {"oneAgent": {"classicFullStack": {"autoUpdate": False}}})
        new = conversion.convert(old, NEWEST)
        assert new["metadata"]["annotations"] == {version_history.AUTO_UPDATE: "false"}
        new["spec"]["oneAgent"] = {"hostMonitoring": {}}
        back = conversion.convert(new, "dynatrace.com/v1beta5")
        assert back["spec"]["oneAgent"] == {"hostMonitoring": {"autoUpdate": False}}

    @pytest.mark.parametrize(
        "spoilt", ["", "[", "7", "[7]", "[{}]", '[{"at":[]}]', '[{"at":["spec","a"]}]', '[{"at":["metadata","name"]}]']
    )
    def test_what_somebody_spoilt_is_not_used_and_harms_nobody(self, spoilt: str) -> None:
        new = conversion.convert(self.written, NEWEST)
        new["metadata"]["annotations"]["conversion.internal.dynatrace.com/v1alpha1"] = spoilt
        old = conversion.convert(new, "dynatrace.com/v1alpha1")
        assert old["spec"]["classicFullStack"] == {"enabled": True, "args": ["--a"]}
        assert old["metadata"]["name"] == "shop"


class TestMetadataEnrichment:
    """In v1beta1 it came with injection unless a flag said otherwise; now a field says it."""

    INJECTING = pytest.mark.parametrize("mode", fields.INJECTING_MODES)
    OTHERS = pytest.mark.parametrize(
        ("version", "spec"),
        [
            ("v1alpha1", {}),
            ("v1alpha1", {"classicFullStack": {"enabled": True}}),
            ("v1alpha1", {"infraMonitoring": {}}),
            ("v1alpha1", {"infraMonitoring": {}, "codeModules": {"enabled": False}}),
            ("v1alpha1", {"routing": {"enabled": True}}),
            ("v1beta1", {}),
            ("v1beta1", {"oneAgent": {"classicFullStack": {}}}),
            ("v1beta1", {"oneAgent": {"hostMonitoring": {}}}),
            ("v1beta1", {"oneAgent": {"applicationMonitoring": None}}),
            ("v1beta1", {"activeGate": {"capabilities": ["routing"]}, "namespaceSelector": {}}),
        ],
        ids=str,
    )
    FLAGS = pytest.mark.parametrize(
        "flags",
        [
            {},
            {"metadata_enrichment": "true"},
            {"metadata_enrichment": "false"},
            {"disable_metadata_enrichment": "false"},
        ],
        ids=str,
    )

    @INJECTING
    def test_it_is_on_where_an_old_manifest_injects_and_says_nothing(self, mode: str) -> None:
        new = conversion.convert(dynakube_in("v1beta1", {"oneAgent": {mode: {}}}), NEWEST)
        assert new["spec"]["metadataEnrichment"] == {"enabled": True}

    @OTHERS
    @FLAGS
    def test_it_is_off_where_an_old_manifest_does_not_inject(
        self, version: str, spec: Manifest, flags: dict[str, str]
    ) -> None:
        written = dynakube_in(version, spec, **flags)
        new = conversion.convert(written, NEWEST)
        assert new["spec"].get("metadataEnrichment", {}).get("enabled") is (False if flags else None)
        assert conversion.convert(new, written["apiVersion"]) == written

    @OTHERS
    @FLAGS
    def test_a_dynakube_that_does_not_inject_claims_no_namespace(
        self, version: str, spec: Manifest, flags: dict[str, str]
    ) -> None:
        claim = namespace_mapping.claim(conversion.convert(dynakube_in(version, spec, **flags), NEWEST), "dynatrace")
        assert not claim.selectors
        assert not claim.covers("shop", {})

    @INJECTING
    @pytest.mark.parametrize("flag", ["metadata_enrichment", "disable_metadata_enrichment"])
    def test_a_flag_switches_it_off(self, mode: str, flag: str) -> None:
        value = "true" if flag.startswith("disable") else "false"
        new = conversion.convert(dynakube_in("v1beta1", {"oneAgent": {mode: {}}}, **{flag: value}), NEWEST)
        assert new["spec"]["metadataEnrichment"] == {"enabled": False}

    @pytest.mark.parametrize("mode", MODES)
    def test_an_old_reader_sees_no_flag_where_a_new_manifest_says_nothing(self, mode: str) -> None:
        new = dynakube_in("v1beta6", {"oneAgent": {mode: {}}})
        old = conversion.convert(new, "dynatrace.com/v1beta1")
        assert "feature.dynatrace.com/metadata-enrichment" not in old["metadata"].get("annotations", {})
        assert conversion.convert(old, NEWEST) == new

    @INJECTING
    def test_an_old_reader_who_takes_the_flag_away_switches_it_on(self, mode: str) -> None:
        new = dynakube_in("v1beta6", {"oneAgent": {mode: {}}, "metadataEnrichment": {"enabled": False}})
        old = conversion.convert(new, "dynatrace.com/v1beta1")
        assert old["metadata"]["annotations"].pop("feature.dynatrace.com/metadata-enrichment") == "false"
        assert conversion.convert(old, NEWEST)["spec"]["metadataEnrichment"] == {"enabled": True}

    def test_without_a_mode_that_injects_it_survives_an_old_writer(self) -> None:
        new = dynakube_in("v1beta6", {"metadataEnrichment": {"enabled": True, "namespaceSelector": {}}})
        old = conversion.convert(new, "dynatrace.com/v1beta1")
        old["spec"]["networkZone"] = "eu"
        new["spec"]["networkZone"] = "eu"
        assert conversion.convert(old, NEWEST) == new


class TestTheSwitchOfTheCsiDriver:
    """In v1beta1 it was off unless a field said otherwise; before and since, it is on."""

    @pytest.mark.parametrize(("version", "on"), [("v1alpha1", True), ("v1beta1", False)])
    def test_an_old_default_is_written_out(self, version: str, on: bool) -> None:
        spec: Manifest = {"codeModules": {}} if version == "v1alpha1" else {"oneAgent": {"applicationMonitoring": {}}}
        written = dynakube_in(version, spec)
        new = conversion.convert(written, NEWEST)
        assert new["spec"]["oneAgent"]["applicationMonitoring"] == {"useCSIDriver": on}
        assert conversion.convert(new, written["apiVersion"]) == written

    def test_the_newest_default_is_written_out_for_v1beta1(self) -> None:
        new = dynakube_in(versions.NEWEST, {"oneAgent": {"applicationMonitoring": {}}})
        old = conversion.convert(new, "dynatrace.com/v1beta1")
        assert old["spec"]["oneAgent"]["applicationMonitoring"] == {"useCSIDriver": True}
        assert conversion.convert(old, NEWEST) == new

    @pytest.mark.parametrize("version", versions.VERSIONS[1:])
    def test_other_modes_have_none(self, version: str) -> None:
        new = conversion.convert(dynakube_in(version, {"oneAgent": {"cloudNativeFullStack": {}}}), NEWEST)
        assert new["spec"]["oneAgent"] == {"cloudNativeFullStack": {}}


def test_what_is_given_is_left_alone() -> None:
    given = dynakube_in("v1beta1", {"namespaceSelector": {}}, metadata_enrichment="false")
    before = copy.deepcopy(given)
    conversion.convert(given, NEWEST)
    assert given == before


def test_nothing_is_shared_between_what_goes_in_and_what_comes_out() -> None:
    given = dynakube_in("v1beta1", {"namespaceSelector": {"matchLabels": {}}, "oneAgent": {"cloudNativeFullStack": {}}})
    new = conversion.convert(given, NEWEST)
    new["spec"]["metadataEnrichment"]["namespaceSelector"]["matchLabels"]["a"] = "b"
    assert new["spec"]["oneAgent"]["cloudNativeFullStack"]["namespaceSelector"] == {"matchLabels": {}}
    assert given["spec"]["namespaceSelector"] == {"matchLabels": {}}


_NESTED: Any = []
for _ in range(5000):
    _NESTED = [_NESTED]


@pytest.mark.parametrize(
    ("change", "to", "said"),
    [
        (
            {"apiVersion": "dynatrace.com/v2"},
            NEWEST,
            "apiVersion is 'dynatrace.com/v2': must be dynatrace.com/v1alpha1",
        ),
        ({"apiVersion": "v1beta6"}, NEWEST, "apiVersion is 'v1beta6': must be"),
        ({"apiVersion": None}, NEWEST, "apiVersion is missing: must be"),
        ({}, "apps/v1", "desiredAPIVersion is 'apps/v1': must be"),
        ({"kind": "EdgeConnect"}, NEWEST, "kind is 'EdgeConnect': must be DynaKube"),
        ({"spec": ["apiUrl"]}, NEWEST, "spec (a list, not shown): must be a mapping of fields"),
        ({"status": "Running"}, NEWEST, "status (a str, not shown): must be a mapping"),
        ({"metadata": {"annotations": 7}}, NEWEST, "metadata.annotations (a int, not shown): must be a mapping"),
        ({"spec": {"oneAgent": "on", "classicFullStack": {}}}, NEWEST, "spec.oneAgent (a str, not shown): must be"),
        ({"spec": {"a": float("nan")}}, NEWEST, "the object (a dict, not shown): must be plain JSON"),
        ({"spec": {"a": {1, 2}}}, NEWEST, "the object (a dict, not shown): must be plain JSON"),
        ({"spec": {"a": _NESTED}}, NEWEST, "the object (a dict, not shown): must be plain JSON"),
    ],
)
def test_what_is_no_dynakube_is_told_with_field_value_and_remedy(change: Manifest, to: str, said: str) -> None:
    with pytest.raises(kubernetes_fields.FieldError) as caught:
        conversion.convert({**dynakube_in("v1alpha1"), **change}, to)
    assert str(caught.value).startswith(said)
