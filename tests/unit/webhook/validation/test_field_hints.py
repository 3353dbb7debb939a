"""Hints at the right field for one that a version does not have."""

from __future__ import annotations

import pytest

from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import UNKNOWN, kube, mode

AGENT = "spec.oneAgent."


@pytest.mark.parametrize(
    ("spec", "path", "hint"),
    [
        ({"networkZon": "a"}, "spec.networkZon", "did you mean spec.networkZone?"),
        ({"oneagent": {}}, "spec.oneagent", "did you mean spec.oneAgent?"),
        (mode("cloudNativeFullstack"), f"{AGENT}cloudNativeFullstack", f"did you mean {AGENT}cloudNativeFullStack?"),
        (mode("appMonitoring"), f"{AGENT}appMonitoring", f"did you mean {AGENT}applicationMonitoring?"),
        (
            mode("hostMonitoring", resources={}),
            f"{AGENT}hostMonitoring.resources",
            f"did you mean {AGENT}hostMonitoring.oneAgentResources?",
        ),
        (
            mode("applicationMonitoring", resources={}),
            f"{AGENT}applicationMonitoring.resources",
            f"did you mean {AGENT}applicationMonitoring.initResources?",
        ),
        (
            mode("cloudNativeFullStack", resources={}),
            f"{AGENT}cloudNativeFullStack.resources",
            f"did you mean {AGENT}cloudNativeFullStack.oneAgentResources or {AGENT}cloudNativeFullStack.initResources?",
        ),
        ({"hostGroup": "a"}, "spec.hostGroup", f"did you mean {AGENT}hostGroup?"),
        (
            mode("hostMonitoring", hostGroup="a"),
            f"{AGENT}hostMonitoring.hostGroup",
            f"did you mean {AGENT}hostGroup?",
        ),
        (
            {"namespaceSelector": {}, **mode("applicationMonitoring")},
            "spec.namespaceSelector",
            "did you mean spec.metadataEnrichment.namespaceSelector or "
            f"{AGENT}applicationMonitoring.namespaceSelector?",
        ),
        (
            {"args": [], **mode("classicFullStack")},
            "spec.args",
            f"did you mean {AGENT}classicFullStack.args?",
        ),
        ({"classicFullStack": {}}, "spec.classicFullStack", f"did you mean {AGENT}classicFullStack?"),
        ({"infraMonitoring": {}}, "spec.infraMonitoring", f"did you mean {AGENT}hostMonitoring?"),
        (mode("codeModules"), f"{AGENT}codeModules", f"did you mean {AGENT}applicationMonitoring?"),
        (
            mode("fullStack"),
            f"{AGENT}fullStack",
            f"did you mean {AGENT}classicFullStack or {AGENT}cloudNativeFullStack?",
        ),
        ({"codeModules": {}}, "spec.codeModules", f"did you mean {AGENT}applicationMonitoring?"),
        (
            mode("hostMonitoring", tolerations=[{"efect": "NoSchedule"}]),
            f"{AGENT}hostMonitoring.tolerations[0].efect",
            f"did you mean {AGENT}hostMonitoring.tolerations[0].effect?",
        ),
        (
            mode("applicationMonitoring", namespaceSelector={"matchLabel": {}}),
            f"{AGENT}applicationMonitoring.namespaceSelector.matchLabel",
            f"did you mean {AGENT}applicationMonitoring.namespaceSelector.matchLabels?",
        ),
        (
            mode("hostMonitoring", autoUpdate=False),
            f"{AGENT}hostMonitoring.autoUpdate",
            "it is a field of v1beta5, without effect here.",
        ),
        ({"": 1}, "spec.", "it has no effect."),
        ({"..": 1}, "spec...", "it has no effect."),
        ({"a[0": 1}, "spec.a[0", "it has no effect."),
        # These say something else.
        ({"dontSkipCertCheck": True}, "spec.dontSkipCertCheck", "it has no effect."),
        (mode("hostMonitoring", disableCsiDriver=True), f"{AGENT}hostMonitoring.disableCsiDriver", "it has no effect."),
        ({"certCheck": True}, "spec.certCheck", "it has no effect."),
        ({"metadataEnrichment": {"disabled": True}}, "spec.metadataEnrichment.disabled", "it has no effect."),
        (mode("hostMonitoring", **{"a" * 200: 1}), f"{AGENT}hostMonitoring.{'a' * 200}", "it has no effect."),
    ],
)
def test_a_misspelt_misplaced_or_moved_field_gets_a_hint_at_the_right_one(spec: Manifest, path: str, hint: str) -> None:
    found = validation.validate(kube(spec), None, UNKNOWN)
    assert f"{path} is not a field of v1beta6: {hint}" in found.warnings


def test_a_field_of_the_newest_version_gets_a_hint_in_an_old_one() -> None:
    new = kube(mode("applicationMonitoring", namespaceSelector={}), version="v1beta1")
    path = f"{AGENT}applicationMonitoring.namespaceSelector"
    assert validation.validate(new, None, UNKNOWN).warnings == (
        f"{path} is not a field of v1beta1: did you mean spec.namespaceSelector?",
    )


def test_a_field_of_a_newer_version_that_counts_all_the_same_is_not_called_without_effect() -> None:
    new = kube({"metadataEnrichment": {"enabled": True}, **mode("applicationMonitoring")}, version="v1beta1")
    assert validation.validate(new, None, UNKNOWN).warnings == (
        "spec.metadataEnrichment.enabled is not a field of v1beta1: it is a field of v1beta6.",
    )
