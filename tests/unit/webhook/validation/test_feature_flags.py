"""Feature flags have valid values."""

from __future__ import annotations

import json

import pytest

from oneagent.common.dynakube.api import versions
from tests.unit.webhook.validation.dynakubes import FLAG, errors, kube, only


@pytest.mark.parametrize(
    ("flag", "value", "form"),
    [
        ("automatic-injection", "yes", '"true" or "false"'),
        ("automatic-injection", "True", ""),
        ("automatic-injection", "0", ""),
        ("disable-automatic-injection", "T", ""),
        ("disable-automatic-injection", "no", '"true" or "false"'),
        ("max-csi-mount-attempts", "-1", "a number from 0"),
        ("max-csi-mount-attempts", "3", ""),
        ("max-csi-mount-timeout", "10 minutes", "a duration such as"),
        ("max-csi-mount-timeout", "1h30m", ""),
        ("oneagent-max-unavailable", "0", "a number from 1"),
        ("oneagent-max-unavailable", "101%", "1% to 100%"),
        ("oneagent-max-unavailable", "25%", ""),
        ("oneagent-initial-connect-retry-ms", "1.5", "milliseconds"),
        ("oneagent-initial-connect-retry-ms", "-1", ""),
        ("injection-failure-policy", "loud", '"silent" or "fail"'),
        ("injection-failure-policy", "fail", ""),
        ("injection-failure-policy", "", ""),
        ("mount-policy", "best", '"wait-then-last-good", "wait", "last-good" or "fail"'),
        ("mount-policy", "last-good", ""),
        ("activegate-updates", "whatever", ""),
        ("no-proxy", "a.example,*.b.example", ""),
    ],
)
def test_feature_flags_have_a_valid_value(flag: str, value: str, form: str) -> None:
    found = errors(kube({}, "shop", versions.NEWEST, **{flag: value}))
    assert form in only(found) and FLAG.format(flag) in only(found) if form else found == ()


def test_feature_flags_with_the_old_prefix_are_checked_as_well() -> None:
    new = kube(version="v1beta6")
    new["metadata"]["annotations"] = {"alpha.operator.dynatrace.com/feature-automatic-injection": "no"}
    assert "feature-automatic-injection] is 'no'" in only(errors(new))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("^prod-.*", "is not a JSON list of strings"),
        ('{"a": 1}', "is not a JSON list of strings"),
        ("[1]", "is not a JSON list of strings"),
        ("[" * 100_000, "is not a JSON list of strings"),
        ('["^a$", "(", "("]', "has an invalid pattern: '('"),
        ('["(?=a)"]', "has an invalid pattern: '(?=a)'"),
        ('["(a+)+(a+)+(a+)+$"]', ""),
        (json.dumps(["a"] * 201), "has 201 patterns"),
        ('["^prod-.*", "^test$"]', ""),
        ("[]", ""),
    ],
)
def test_ignored_namespaces_are_a_list_of_patterns(value: str, message: str) -> None:
    found = errors(kube(ignored_namespaces=value))
    assert message in only(found) if message else found == ()
