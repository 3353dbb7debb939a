"""What is allowed but better said otherwise is a warning."""

from __future__ import annotations

import pytest

from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import FLAG, UNKNOWN, kube, mode


@pytest.mark.parametrize(
    ("new", "warnings"),
    [
        (kube({"networkZon": "a"}), ["spec.networkZon is not a field of v1beta6: nothing here reads it."]),
        (kube({"line\nbreak": 1}), ["'spec.line\\nbreak' is not a field of v1beta6: nothing here reads it."]),
        (
            kube({"namespaceSelector": {}}),
            ["spec.namespaceSelector is not a field of v1beta6: it is one of v1beta1."],
        ),
        (kube({"namespaceSelector": {}}, version="v1beta1"), []),
        (
            kube({f"a{number}": 1 for number in range(12)}),
            [
                *(f"spec.a{number} is not a field of v1beta6: nothing here reads it." for number in range(10)),
                "2 more fields are unknown, too.",
            ],
        ),
        (
            kube(mode("hostMonitoring", autoUpdate=True), version="v1beta5"),
            [
                "spec.oneAgent.hostMonitoring.autoUpdate is deprecated: Deprecated. Whether host agents are updated to "
                "the tenant's newest version."
            ],
        ),
        (
            kube({"activeGate": {"capabilities": []}, "logMonitoring": {}, "enableIstio": True}),
            [
                "spec.activeGate is kept, but nothing here acts on it: it belongs to ActiveGate.",
                "spec.enableIstio is kept, but nothing here acts on it.",
            ],
        ),
        (
            kube({"apiUrl": "http://127.0.0.1/api"}),
            ["spec.apiUrl begins with http: tokens go over the network for everybody to read."],
        ),
        (
            kube({"proxy": {"value": "http://me:pass@proxy:3128"}}),
            ["spec.proxy.value holds a password, which whoever reads DynaKubes can read: use spec.proxy.valueFrom."],
        ),
        (
            kube(no_porxy="a"),
            [
                f"{FLAG.format('no-porxy')} is a feature flag that nobody knows: feature.dynatrace.com/no-proxy may be "
                "meant."
            ],
        ),
        (
            kube(zzz="a"),
            [f"{FLAG.format('zzz')} is a feature flag that nobody knows: it has no effect."],
        ),
        (
            kube(metadata_enrichment="true"),
            [f"{FLAG.format('metadata-enrichment')} is deprecated: use spec.metadataEnrichment.enabled in its place."],
        ),
        (kube(metadata_enrichment="true", version="v1beta1"), []),
        (
            kube(activegate_updates="true"),
            [f"{FLAG.format('activegate-updates')} is kept, but nothing here acts on it."],
        ),
    ],
)
def test_what_is_allowed_but_better_said_is_a_warning(new: Manifest, warnings: list[str]) -> None:
    assert validation.validate(new, None, UNKNOWN) == validation.Verdict((), tuple(warnings))
