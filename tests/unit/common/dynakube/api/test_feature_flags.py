"""Feature flags mean the same in every spelling and in every API version."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube import namespace_mapping
from oneagent.common.dynakube.api import conversion, feature_flags, fields, versions
from oneagent.operator.host_agents import spec
from oneagent.webhook.injection import dynakube_settings
from tests.unit.common.dynakube.api.manifests import Manifest

ROOT: Final = Path(__file__).parents[5]
ROOTS: Final = ("common", "csi_driver", "operator", "webhook", "sidecars")
SWITCHES = [feature.name for feature in feature_flags.FEATURES.values() if feature.kind == "switch" and feature.handled]
FIRST = "feature.dynatrace.com/"
NEWEST = f"dynatrace.com/{versions.NEWEST}"
PREFIXES = pytest.mark.parametrize("prefix", [FIRST, "alpha.operator.dynatrace.com/feature-"])


def newest(annotations: dict[str, str], version: str = versions.NEWEST, mode: str = "hostMonitoring") -> Manifest:
    """A DynaKube with these annotations, as components read it."""
    written: Manifest = {
        "apiVersion": f"dynatrace.com/{version}",
        "kind": "DynaKube",
        "metadata": {"name": "shop", "namespace": "dynatrace", "annotations": annotations},
        "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": {mode: {}}},
    }
    if version == "v1alpha1":
        section = "infraMonitoring" if mode == "hostMonitoring" else "codeModules"
        written["spec"] = {"apiUrl": written["spec"]["apiUrl"], section: {}}
    return conversion.convert(written, NEWEST)


@pytest.mark.parametrize("version", versions.VERSIONS)
@PREFIXES
@pytest.mark.parametrize(
    ("annotation", "value", "read_only"),
    [
        ("disable-oneagent-readonly-host-fs", "true", False),
        ("disable-oneagent-readonly-host-fs", "false", True),
        ("disable-oneagent-readonly-host-fs", "TRUE", False),
        ("enable-oneagent-readonly-host-fs", "false", False),
        ("oneagent-readonly-host-fs", "false", False),
        ("oneagent-readonly-host-fs", "0", False),
        ("disable-oneagent-readonly-host-fs", "1", False),
        ("disable-oneagent-readonly-host-fs", "F", True),
    ],
)
def test_a_host_agent_sees_the_host_as_the_flag_of_an_old_release_says(
    version: str, prefix: str, annotation: str, value: str, read_only: bool
) -> None:
    manifest = newest({prefix + annotation: value}, version)
    agent = spec.from_object(manifest, dynakube.from_object(manifest).mode)
    assert agent.read_only is read_only


@pytest.mark.parametrize("version", versions.VERSIONS)
@PREFIXES
def test_pods_are_injected_as_the_flags_of_old_releases_say(version: str, prefix: str) -> None:
    flags = {
        "disable-automatic-injection": "true",
        "disable-webhook-reinvocation-policy": "true",
        "enable-label-version-detection": "true",
        "ignored-namespaces": '["^shop$"]',
    }
    manifest = newest({prefix + name: value for name, value in flags.items()}, version, mode="applicationMonitoring")
    settings = dynakube_settings.read(manifest, "dynatrace")
    assert not settings.is_on("automatic-injection")
    assert not settings.is_on("webhook-reinvocation-policy")
    assert settings.is_on("label-version-detection")
    claim = namespace_mapping.claim(manifest, "dynatrace")
    assert [claim.covers(name, {}) for name in ("shop", "kube-system")] == [False, True]


@pytest.mark.parametrize("name", [name for name in SWITCHES if not feature_flags.FEATURES[name].instead])
@pytest.mark.parametrize("value", ["true", "false"])
def test_every_switch_has_a_contrary_and_its_own_name_comes_first(name: str, value: str) -> None:
    contrary = {"true": "false", "false": "true"}[value]

    def read(**flags: str) -> str:
        return feature_flags.text(newest({FIRST + verb.replace("_", "-") + name: v for verb, v in flags.items()}), name)

    assert read(disable_=value) == contrary
    assert read(enable_=value) == value
    assert read(**{"disable_": value, "": value}) == value
    assert read(**{"disable_": value, "": ""}) == contrary
    assert read(disable_="perhaps") == "perhaps"


def test_flags_that_are_no_switches_have_no_contrary() -> None:
    assert feature_flags.text(newest({f"{FIRST}disable-no-proxy": "true"}), "no-proxy") == ""
    assert [flag.feature for flag in feature_flags.given({f"{FIRST}disable-no-proxy": "true"})] == [None]


def test_a_name_that_has_a_verb_itself_is_a_flag_of_its_own() -> None:
    (flag,) = feature_flags.given({f"{FIRST}enable-attributes-dt.kubernetes": "true"})
    assert flag.feature is feature_flags.FEATURES["enable-attributes-dt.kubernetes"]
    assert flag.verb == ""


@pytest.mark.parametrize(
    ("flags", "enabled"),
    [
        ({"disable-metadata-enrichment": "true"}, False),
        ({"enable-metadata-enrichment": "false"}, False),
        ({"disable-metadata-enrichment": "false"}, True),
        ({"metadata-enrichment": "true", "disable-metadata-enrichment": "true"}, True),
        ({"metadata-enrichment": "perhaps"}, True),
    ],
)
@PREFIXES
@pytest.mark.parametrize("mode", fields.INJECTING_MODES)
def test_a_flag_that_became_a_field_is_read_in_every_spelling(
    flags: dict[str, str], enabled: bool, prefix: str, mode: str
) -> None:
    found = newest({prefix + name: value for name, value in flags.items()}, "v1beta1", mode)
    assert found["spec"]["metadataEnrichment"]["enabled"] is enabled


@pytest.mark.parametrize(("version", "name"), list(itertools.product(versions.VERSIONS, ["a", "disable-no-proxy"])))
def test_what_is_no_flag_stays_where_it_is(version: str, name: str) -> None:
    found: dict[str, Any] = newest({FIRST + name: "true"}, version)["metadata"]["annotations"]
    assert found[FIRST + name] == "true"


IN_THE_FIELD = (Path(__file__).parent / "flags.txt").read_text().split()
"""The flags of all releases from 0.3 to 1.10"""


@PREFIXES
@pytest.mark.parametrize("name", IN_THE_FIELD)
def test_every_flag_of_the_field_is_known(prefix: str, name: str) -> None:
    (flag,) = feature_flags.given({prefix + name: "true"})
    assert flag.feature is not None


@pytest.mark.parametrize("feature", feature_flags.FEATURES.values(), ids=lambda feature: feature.name)
def test_a_flag_is_read_by_a_component_or_has_a_reason_why_not(feature: feature_flags.Feature) -> None:
    """A flag that does nothing must not be taken for one that has an effect."""
    own = Path(feature_flags.__file__)
    rules = ROOT / "webhook/oneagent/webhook/validation"
    modules = [path for root in ROOTS for path in (ROOT / root / "oneagent").rglob("*.py") if path != own]
    readers = [path for path in modules if not path.is_relative_to(rules) and f'"{feature.name}"' in path.read_text()]
    assert bool(readers) is feature.handled
