from __future__ import annotations

import re
from typing import Any

import pytest

from oneagent.common.dynakube.api import feature_flags, schema, version_history, versions

NEWEST = version_history.described(versions.NEWEST)


@pytest.mark.parametrize(
    ("spec", "unknown"),
    [
        ({"apiUrl": "", "oneAgent": {"hostGrup": "a"}}, ["spec.oneAgent.hostGrup"]),
        ({"oneAgent": {"hostMonitoring": {"tolerations": [{}, {"kye": "a"}]}}}, ["tolerations[1].kye"]),
        ({"oneAgent": {"hostMonitoring": {"labels": {"anything": "goes"}}}}, []),
        ({"activeGate": {"anything": {"goes": 1}}}, []),
        ({"namespaceSelector": {"matchLabels": {}}}, ["spec.namespaceSelector"]),
        ({"oneAgent": "not a section"}, []),
        ({"oneAgent": None}, []),
        ([], []),
    ],
)
def test_what_is_not_described_is_found_with_its_path(spec: Any, unknown: list[str]) -> None:
    manifest = {"apiVersion": "dynatrace.com/v1beta6", "kind": "DynaKube", "metadata": {"name": "a"}, "spec": spec}
    found = list(schema.unknown(NEWEST, manifest))
    assert len(found) == len(unknown)
    assert all(path.endswith(end) for path, end in zip(found, unknown, strict=True))


def test_what_lies_beside_spec_and_status_is_unknown() -> None:
    assert list(schema.unknown(NEWEST, {"kind": "DynaKube", "data": {}})) == ["data"]


def test_annotations_that_want_to_be_flags_are_told_apart() -> None:
    given = {
        "feature.dynatrace.com/no-proxy": "",
        "alpha.operator.dynatrace.com/feature-no-proxy": "",
        "feature.dynatrace.com/no-porxy": "",
        "feature.dynatrace.com/metadata-enrichment": "",
        "example.com/owner": "",
    }
    found = {flag.key: flag.feature for flag in feature_flags.given(given)}
    assert set(found) == set(given) - {"example.com/owner"}
    assert found["feature.dynatrace.com/no-porxy"] is None
    assert found["alpha.operator.dynatrace.com/feature-no-proxy"] == feature_flags.FEATURES["no-proxy"]
    deprecated = found["feature.dynatrace.com/metadata-enrichment"]
    assert deprecated is not None
    assert deprecated.instead == "spec.metadataEnrichment.enabled"


def test_what_took_a_flags_place_is_there() -> None:
    for feature in feature_flags.FEATURES.values():
        place = feature.instead.replace("MODE", "hostMonitoring")
        if place.startswith("spec."):
            assert schema.get_field(NEWEST, place)
        elif place:
            assert place.removeprefix("feature.dynatrace.com/") in feature_flags.FEATURES


@pytest.mark.parametrize("version", versions.VERSIONS)
def test_each_description_is_whole_sentences_that_begin_with_a_noun_and_not_with_a_question(version: str) -> None:
    for path, field in schema.fields(version_history.described(version)):
        if path.startswith("metadata") or (path.endswith(("[]", ".*")) and "description" not in field):
            continue
        text = field.get("description", "")
        assert re.fullmatch(r"[A-Z].*\.", text), (path, text)
        assert not re.match(r"(Its|When|How|Where|What|Which|Whose|Why)\b", text), (path, text)
