"""Warnings about fields and flags that are allowed."""

from __future__ import annotations

import pytest

from oneagent.common.dynakube.api import versions
from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import FLAG, UNKNOWN, kube, mode


@pytest.mark.parametrize(
    ("new", "warnings"),
    [
        (kube({"networkZon": "a"}), ["spec.networkZon is not a field of v1beta6: it has no effect."]),
        (kube({"line\nbreak": 1}), ["'spec.line\\nbreak' is not a field of v1beta6: it has no effect."]),
        (
            kube({"namespaceSelector": {}}),
            ["spec.namespaceSelector is not a field of v1beta6: it is a field of v1beta1."],
        ),
        (kube({"namespaceSelector": {}}, version="v1beta1"), []),
        (
            kube({f"a{number}": 1 for number in range(12)}),
            [
                *(f"spec.a{number} is not a field of v1beta6: it has no effect." for number in range(10)),
                "2 more unknown fields.",
            ],
        ),
        (
            kube(mode("hostMonitoring", autoUpdate=True), version="v1beta5"),
            [
                "spec.oneAgent.hostMonitoring.autoUpdate is deprecated: Deprecated. Update host agents to "
                "the tenant's newest version."
            ],
        ),
        (
            kube({"activeGate": {"capabilities": []}, "logMonitoring": {}, "enableIstio": True}),
            [
                "spec.activeGate has no effect: it belongs to ActiveGate.",
                "spec.enableIstio has no effect.",
            ],
        ),
        (
            kube({"apiUrl": "http://127.0.0.1/api"}),
            ["spec.apiUrl starts with http: tokens are sent unencrypted; use https."],
        ),
        (
            kube({"proxy": {"value": "http://me:pass@proxy:3128"}}),
            ["spec.proxy.value contains a password, readable with the DynaKube: use spec.proxy.valueFrom."],
        ),
        (
            kube(no_porxy="a"),
            [f"{FLAG.format('no-porxy')} is not a feature flag: did you mean feature.dynatrace.com/no-proxy?"],
        ),
        (
            kube(disable_oneagent_readonly_host_fs="true"),
            [
                f"{FLAG.format('disable-oneagent-readonly-host-fs')} is deprecated: use "
                'feature.dynatrace.com/oneagent-readonly-host-fs: "false" instead.'
            ],
        ),
        (
            kube(enable_label_version_detection="true", version="v1beta1"),
            [
                f"{FLAG.format('enable-label-version-detection')} is deprecated: use "
                "feature.dynatrace.com/label-version-detection instead."
            ],
        ),
        (
            kube(disable_automatic_injection="true", automatic_injection="true"),
            [
                f"{FLAG.format('disable-automatic-injection')} has no effect: "
                "feature.dynatrace.com/automatic-injection comes first."
            ],
        ),
        (
            kube(disable_metadata_enrichment="true"),
            [
                f"{FLAG.format('disable-metadata-enrichment')} is deprecated: use "
                "spec.metadataEnrichment.enabled instead."
            ],
        ),
        (
            kube(disable_hosts_requests="true"),
            [f"{FLAG.format('disable-hosts-requests')} has no effect: the tenant is not asked for its hosts."],
        ),
        (
            {**kube(), "metadata": {"name": "shop", "labels": {"feature.dynatrace.com/no-proxy": "a"}}},
            ["metadata.labels[feature.dynatrace.com/no-proxy] has no effect: feature flags are annotations."],
        ),
        (
            kube(zzz="a"),
            [f"{FLAG.format('zzz')} is not a feature flag: it has no effect."],
        ),
        (
            kube(metadata_enrichment="true"),
            [f"{FLAG.format('metadata-enrichment')} is deprecated: use spec.metadataEnrichment.enabled instead."],
        ),
        (kube(metadata_enrichment="true", version="v1beta1"), []),
        *(
            (
                kube({"metadataEnrichment": {"enabled": False}, **mode(name)}),
                [
                    f"spec.metadataEnrichment.enabled is false, but pods that get an agent by spec.oneAgent.{name} get "
                    "the metadata files in any case; a pod opts out by the annotation "
                    "metadata-enrichment.dynatrace.com/inject."
                ],
            )
            for name in ("applicationMonitoring", "cloudNativeFullStack")
        ),
        (kube({"metadataEnrichment": {"enabled": False}, **mode("classicFullStack")}), []),
        (kube({"metadataEnrichment": {"enabled": True}, **mode("applicationMonitoring")}), []),
        (
            kube(activegate_updates="true"),
            [f"{FLAG.format('activegate-updates')} has no effect: it belongs to another product."],
        ),
    ],
)
def test_an_allowed_but_doubtful_field_is_a_warning(new: Manifest, warnings: list[str]) -> None:
    assert validation.validate(new, None, UNKNOWN) == validation.ValidationResult((), tuple(warnings))


@pytest.mark.parametrize(
    ("flag", "value", "guess"),
    [
        ("oneagent-readonly-hostfs", "true", "oneagent-readonly-host-fs"),
        ("oneagent-read-only-host-fs", "true", "oneagent-readonly-host-fs"),
        ("disable-oneagent-readonly-host-f", "true", 'oneagent-readonly-host-fs: "false"'),
        ("disabled-oneagent-readonly-host-fs", "false", 'oneagent-readonly-host-fs: "true"'),
        ("enabled-label-version-detection", "true", "label-version-detection"),
        ("automatic-injektion", "true", "automatic-injection"),
        ("ignore-namespaces", "[]", "ignored-namespaces"),
        ("noproxy", "a", "no-proxy"),
        ("max-csi-mount-attempt", "1", "max-csi-mount-attempts"),
        ("multiple-osagent-on-node", "true", "multiple-osagents-on-node"),
        # These say something else.
        ("oneagent-readwrite-host-fs", "true", ""),
        ("oneagent-unprivileged", "true", ""),
        ("no-oneagent-privileged", "true", ""),
        ("not-automatic-injection", "true", ""),
        ("non-automatic-injection", "true", ""),
        ("skip-webhook-reinvocation-policy", "true", ""),
        ("oneagent-proxy", "true", ""),
        ("proxy", "a", ""),
        ("watched-namespaces", "[]", ""),
        ("disable-max-csi-mount-attempts", "true", ""),
    ],
)
def test_a_guess_at_a_misspelt_flag_never_says_the_contrary(flag: str, value: str, guess: str) -> None:
    (warning,) = validation.validate(kube({}, "shop", versions.NEWEST, **{flag: value}), None, UNKNOWN).warnings
    end = f"did you mean feature.dynatrace.com/{guess}?" if guess else "it has no effect."
    assert warning == f"{FLAG.format(flag)} is not a feature flag: {end}"
