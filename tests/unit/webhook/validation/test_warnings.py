"""Warnings about fields and flags that are allowed."""

from __future__ import annotations

import pytest

from oneagent.common.dynakube.api import conversion, versions
from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import FLAG, UNKNOWN, kube, mode


@pytest.mark.parametrize(
    ("new", "warnings"),
    [
        (kube({"wholeCluster": "a"}), ["spec.wholeCluster is not a field of v1beta6: it has no effect."]),
        (kube({"line\nbreak": 1}), ["'spec.line\\nbreak' is not a field of v1beta6: it has no effect."]),
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
                "spec.oneAgent.hostMonitoring.autoUpdate is deprecated: Update host agents to "
                "the tenant's latest version."
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
        *(
            (
                {**kube(), "metadata": {"name": "shop", "annotations": {f"{domain}/{name}": "true"}}},
                [f"metadata.annotations[{domain}/{name}] has no effect: did you mean feature.dynatrace.com/{guess}?"],
            )
            for domain, name, guess in (
                ("features.dynatrace.com", "automatic-injection", "automatic-injection"),
                ("feature.dynatrace.io", "disable-automatic-injection", "disable-automatic-injection"),
                ("alpha.operator.dynatrace.com", "automatic-injection", "automatic-injection"),
                ("featrue.dynatrace.com", "feature-no-proxy", "no-proxy"),
            )
        ),
        ({**kube(), "metadata": {"name": "shop", "annotations": {"features.dynatrace.com/owner": "me"}}}, []),
        (
            kube({"metadataEnrichment": {"namespaceSelector": {}}}),
            ["spec.metadataEnrichment.namespaceSelector has no effect: spec.metadataEnrichment.enabled is not true."],
        ),
        (
            kube(mode("cloudNativeFullStack", useCSIDriver=False)),
            ["spec.oneAgent.cloudNativeFullStack.useCSIDriver has no effect: this mode always uses the CSI driver."],
        ),
        (
            kube({"proxy": {"value": "http://proxy:3128", "valueFrom": "proxy"}}),
            ["spec.proxy.valueFrom has no effect: spec.proxy.value comes before it."],
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


@pytest.mark.parametrize("version", versions.VERSIONS)
def test_nothing_in_the_status_is_warned_about_or_refused(version: str) -> None:
    status = {
        "phase": "Running",
        "connectionInfo": {"tenantUUID": "../../etc"},
        "oneAgent": {"connectionInfoStatus": {"tenantUUID": "a/b"}, "healthchek": 1},
        "codeModules": {"version": "custom image"},
        "somethingElse": {"autoUpdate": False},
    }
    new = {**kube(version=version), "status": status}
    assert validation.validate(new, None, UNKNOWN) == validation.ValidationResult()


class TestCarriedSettings:
    """A setting that the newest version cannot show is named, in every version that the DynaKube is applied in."""

    @pytest.mark.parametrize("version", versions.VERSIONS[1:-1])
    @pytest.mark.parametrize("reader", versions.VERSIONS)
    def test_updates_that_are_off(self, version: str, reader: str) -> None:
        written = kube(mode("hostMonitoring", autoUpdate=False), version=version)
        applied = conversion.convert(written, f"dynatrace.com/{reader}")
        (warning,) = validation.validate(applied, None, UNKNOWN).warnings
        if reader == versions.NEWEST:
            assert warning.startswith("Host agents are not updated, by autoUpdate: false of an older version")
        else:
            assert ".autoUpdate is deprecated: Update" in warning

    def test_updates_that_are_on_are_what_everybody_has(self) -> None:
        written = kube(mode("hostMonitoring", autoUpdate=True), version="v1beta3")
        applied = conversion.convert(written, f"dynatrace.com/{versions.NEWEST}")
        assert validation.validate(applied, None, UNKNOWN) == validation.ValidationResult()

    SETTINGS = pytest.mark.parametrize(
        ("version", "spec", "path"),
        [
            ("v1alpha1", {"infraMonitoring": {"waitReadySeconds": 60}}, "spec.infraMonitoring.waitReadySeconds"),
            ("v1alpha1", {"oneAgent": {"image": "registry.example/a:1"}}, "spec.oneAgent.image"),
            (
                "v1beta1",
                {**mode("hostMonitoring"), "namespaceSelector": {"matchLabels": {"a": "b"}}},
                "spec.namespaceSelector",
            ),
        ],
    )

    @SETTINGS
    def test_settings_without_a_place_are_named_in_the_newest_version(
        self, version: str, spec: Manifest, path: str
    ) -> None:
        applied = conversion.convert(kube(spec, version=version), f"dynatrace.com/{versions.NEWEST}")
        (warning,) = validation.validate(applied, None, UNKNOWN).warnings
        assert warning == f"{path} of {version} has no effect; only readers of {version} see it."

    @SETTINGS
    def test_settings_without_a_place_are_named_once_in_their_own_version(
        self, version: str, spec: Manifest, path: str
    ) -> None:
        (warning,) = validation.validate(kube(spec, version=version), None, UNKNOWN).warnings
        assert warning.startswith(path)
        assert "has no effect" in warning

    def test_a_mode_that_is_off_is_no_setting_without_effect(self) -> None:
        new = kube({"classicFullStack": {"enabled": False, "args": ["--a=b"]}}, version="v1alpha1")
        assert validation.validate(new, None, UNKNOWN) == validation.ValidationResult()


def test_a_dynakube_outside_the_operators_namespace_is_refused() -> None:
    new = kube()
    new["metadata"]["namespace"] = "shop"
    (error,) = validation.validate(new, None, UNKNOWN).errors
    assert error == (
        "The DynaKube is in the namespace 'shop', where the operator does not look for it. Make sure that it is in "
        "the operator's namespace, 'dynatrace'."
    )
    # One that is there already can still lose its finalizer.
    assert validation.validate(new, new, UNKNOWN).errors == ()


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
        ("enabled-automatic-injectio", "true", "automatic-injection"),
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
