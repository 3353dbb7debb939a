"""Rules about metadata: enrichment and resource attributes."""

from __future__ import annotations

import pytest

from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import Manifest
from tests.unit.webhook.validation.dynakubes import UNKNOWN, errors, kube, mode, only

MODES = ("applicationMonitoring", "classicFullStack", "cloudNativeFullStack", "hostMonitoring")
FOR_ALL = "spec.resourceAttributes"


def attributes(count: int, prefix: str = "a") -> dict[str, str]:
    return {f"{prefix}{number}": "x" for number in range(count)}


def in_field(path: str, given: dict[str, str]) -> Manifest:
    if path == FOR_ALL:
        return {"resourceAttributes": given}
    return mode(path.split(".")[2], additionalResourceAttributes=given)


@pytest.mark.parametrize("path", [FOR_ALL, *(f"spec.oneAgent.{name}.additionalResourceAttributes" for name in MODES)])
@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("my.team", "platform", ""),
        ("example.com/my.team", "", ""),
        ("my team", "platform", "has the key 'my team', which must read name or example.com/name"),
        ("a" * 64, "platform", "has the key 'aaaa"),
        ("my.team", "two words", "has the value 'two words' for 'my.team', which must have at most 63 letters"),
        ("my.team", "v" * 64, "has the value 'vvvv"),
    ],
)
def test_keys_and_values_of_attributes_have_the_form_of_labels(path: str, key: str, value: str, fault: str) -> None:
    found = errors(kube(in_field(path, {key: value})))
    assert only(found).startswith(f"{path} {fault}") if fault else found == ()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (in_field(FOR_ALL, attributes(10)), ()),
        (in_field(FOR_ALL, attributes(11)), (f"{FOR_ALL} has 11 attributes",)),
        ({**in_field(FOR_ALL, attributes(10)), **mode("hostMonitoring")}, ()),
        (
            {
                **in_field(FOR_ALL, attributes(6)),
                **mode("cloudNativeFullStack", additionalResourceAttributes=attributes(6, "b")),
            },
            (f"{FOR_ALL} and spec.oneAgent.cloudNativeFullStack.additionalResourceAttributes have 12 attributes",),
        ),
        (
            {
                **in_field(FOR_ALL, attributes(6)),
                **mode("cloudNativeFullStack", additionalResourceAttributes=attributes(6)),
            },
            (),
        ),
    ],
)
def test_many_attributes_are_expensive(spec: Manifest, told: tuple[str, ...]) -> None:
    result = validation.validate(kube(spec), None, UNKNOWN)
    assert result.errors == ()
    assert len(result.warnings) == len(told)
    for warning, beginning in zip(result.warnings, told, strict=True):
        assert warning.startswith(beginning)
