"""Secrets that no DynaKube may name, because nodes read what DynaKubes name."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common import dynakube
from oneagent.common.dynakube import secret_names
from tests.fakes.provisioner import manifest

KEY = "metadata.annotations[feature.dynatrace.com/code-modules-image-key]"
URL = "https://abc12345.live.dynatrace.com/api"


def naming(field: str, name: str) -> dict[str, Any]:
    """A DynaKube with a Secret's name in this field."""
    if field == KEY:
        return manifest(api_url=URL, annotations={"code-modules-image-key": name})
    if field.startswith("spec.oneAgent."):
        obj = manifest(api_url=URL)
        reference = {"name": name, "key": "ca.key"}
        env = [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"secretKeyRef": reference}}]
        obj["spec"]["oneAgent"]["cloudNativeFullStack"]["env"] = env
        return obj
    last = field.rpartition(".")[2]
    spec: dict[str, Any] = {"proxy": {"valueFrom": name}} if last == "valueFrom" else {last: name}
    return manifest(api_url=URL, **spec)


@pytest.mark.parametrize("name", sorted(secret_names.RESERVED))
@pytest.mark.parametrize(
    "field",
    [
        "spec.tokens",
        "spec.customPullSecret",
        "spec.proxy.valueFrom",
        KEY,
        "spec.oneAgent.cloudNativeFullStack.env[1].valueFrom.secretKeyRef.name",
    ],
)
def test_a_secret_with_keys_of_the_webhook_is_refused_wherever_it_is_named(field: str, name: str) -> None:
    with pytest.raises(dynakube.DynaKubeError) as refused:
        dynakube.from_object(naming(field, name))
    assert str(refused.value).startswith(f"{field} is '{name}': name another Secret: ")
    assert dynakube.from_object(naming(field, "shop")).name == "demo"


def test_neither_does_a_dynakube_of_that_name_read_it() -> None:
    name = "oneagent-webhook-ca"
    with pytest.raises(dynakube.DynaKubeError, match=f"^metadata.name is '{name}': name a Secret in spec.tokens"):
        dynakube.from_object(manifest(name, URL))
    assert dynakube.from_object(manifest(name, URL, tokens="shop")).tokens_secret == "shop"


@pytest.mark.parametrize("env", ["B", ["B"], [{"valueFrom": "B"}], [{"valueFrom": {"secretKeyRef": ["B"]}}]])
def test_other_variables_are_left_to_the_api_server(env: object) -> None:
    obj = manifest(api_url=URL)
    obj["spec"]["oneAgent"]["cloudNativeFullStack"]["env"] = env
    assert dynakube.from_object(obj).name == "demo"
