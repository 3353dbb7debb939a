"""Validation of the keys that a DynaKube's image must be signed with."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common.dynakube.api import versions
from oneagent.webhook import validation

FLAG = "feature.dynatrace.com/code-modules-image-key"
PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
IMAGE = {"applicationMonitoring": {"codeModulesImage": "registry.example/agent:1"}}


def result(key: str, agent: dict[str, Any]) -> validation.ValidationResult:
    new = {
        "apiVersion": f"dynatrace.com/{versions.NEWEST}",
        "kind": "DynaKube",
        "metadata": {"name": "shop", "namespace": "dynatrace", "annotations": {FLAG: key}},
        "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": agent},
    }
    return validation.validate(new, None, validation.ClusterState(own_namespace="dynatrace"))


@pytest.mark.parametrize("key", [PEM, PEM * 2, "image-keys"])
def test_keys_and_the_name_of_a_secret_are_valid(key: str) -> None:
    assert result(key, IMAGE) == validation.ValidationResult()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "has to be public keys in PEM form, or the name of a Secret whose entry cosign.pub has them"),
        ("Image Keys", "has to be public keys in PEM form"),
        ("-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----", "has a private key in it"),
    ],
)
def test_another_value_is_refused_and_not_shown(key: str, message: str) -> None:
    (error,) = result(key, IMAGE).errors
    assert f"metadata.annotations[{FLAG}] (not shown) {message}" in error
    assert "c2VjcmV0" not in error


@pytest.mark.parametrize(
    "agent",
    [
        {"applicationMonitoring": {"codeModulesImage": "file:///a.zip"}},
        {"cloudNativeFullStack": {}},
        {"hostMonitoring": {}},
    ],
)
def test_keys_without_an_image_are_a_warning(agent: dict[str, Any]) -> None:
    (warning,) = result("image-keys", agent).warnings
    assert "packages from other sources are installed without a signature" in warning
