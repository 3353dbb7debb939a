"""What is said of the keys that a DynaKube's image has to be signed with."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common.dynakube.api import fields
from oneagent.webhook import validation

FLAG = "feature.dynatrace.com/code-modules-image-key"
PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
IMAGE = {"applicationMonitoring": {"codeModulesImage": "registry.example/agent:1"}}


def verdict(key: str, agent: dict[str, Any]) -> validation.Verdict:
    new = {
        "apiVersion": f"dynatrace.com/{fields.NEWEST}",
        "kind": "DynaKube",
        "metadata": {"name": "shop", "namespace": "dynatrace", "annotations": {FLAG: key}},
        "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": agent},
    }
    return validation.validate(new, None, validation.Known(own_namespace="dynatrace"))


@pytest.mark.parametrize("key", [PEM, PEM * 2, "image-keys"])
def test_keys_are_taken_and_so_is_the_name_of_a_secret(key: str) -> None:
    assert verdict(key, IMAGE) == validation.Verdict()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "has to be public keys in PEM form, or the name of a Secret whose entry cosign.pub has them"),
        ("Image Keys", "has to be public keys in PEM form"),
        ("-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----", "has a private key in it"),
    ],
)
def test_anything_else_is_refused_and_not_shown(key: str, said: str) -> None:
    (error,) = verdict(key, IMAGE).errors
    assert f"metadata.annotations[{FLAG}] (not shown) {said}" in error
    assert "c2VjcmV0" not in error


@pytest.mark.parametrize(
    "agent",
    [
        {"applicationMonitoring": {"codeModulesImage": "file:///a.zip"}},
        {"cloudNativeFullStack": {}},
        {"hostMonitoring": {}},
    ],
)
def test_who_names_no_image_is_warned_that_the_rest_needs_no_signature(agent: dict[str, Any]) -> None:
    (warning,) = verdict("image-keys", agent).warnings
    assert "packages that do not come from an image are installed without a signature" in warning
