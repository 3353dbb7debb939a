"""What the operator reads before it asks a tenant and a registry, and what it is woken by afterwards."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, cast

import pytest

from oneagent.common import dynakube
from oneagent.common.tenant import inputs
from oneagent.common.tenant.inputs import Inputs
from oneagent.operator import api, tenant_poller
from tests.fakes import provisioner
from tests.fakes.object_api import Objects

PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"


def read(key: str, image: str = "registry.example/agent:1") -> Inputs:
    server = Objects()
    for name, content in {"pull": "login", "image-keys": "keys", "demo": "token"}.items():
        data = {"content": base64.b64encode(content.encode()).decode()}
        server.put("Secret", {"metadata": {"name": name, "namespace": "dynatrace"}, "data": data})
    obj: dict[str, Any] = provisioner.manifest(
        api_url="https://abc12345.live.dynatrace.com/api",
        image=image,
        annotations={"code-modules-image-key": key},
        customPullSecret="pull",
    )
    return asyncio.run(tenant_poller.read_inputs(cast("api.Api", server), "dynatrace", dynakube.from_object(obj)))


def test_the_secrets_of_an_image_are_read_and_watched() -> None:
    found = read("image-keys")
    assert (found.secret("pull"), found.secret("image-keys")) == ({"content": "login"}, {"content": "keys"})
    assert set(found.contents) == {("Secret", "demo"), ("Secret", "pull"), ("Secret", "image-keys")}


def test_a_key_in_the_dynakube_is_no_secret_s_name() -> None:
    found = read(PEM)
    assert found.secret("pull") == {"content": "login"}
    assert set(found.contents) == {("Secret", "demo"), ("Secret", "pull")}


def test_a_secret_that_is_not_there_is_watched_for() -> None:
    found = read("other-keys")
    assert found.contents["Secret", "other-keys"] is None


@pytest.mark.parametrize("image", ["", "file:///a.zip", "oci-layout:/a:1"])
def test_without_an_image_its_secret_is_not_read(image: str) -> None:
    found = read("image-keys", image)
    assert set(found.contents) == {("Secret", "demo")}


def test_another_image_key_or_pull_secret_is_polled_at_once() -> None:
    def settings(**spec: Any) -> tuple[object, ...]:
        return inputs.poll_settings(dynakube.from_object(provisioner.manifest(api_url="https://a.b/api", **spec)))

    found = [
        settings(),
        settings(image="registry.example/agent:1"),
        settings(image="registry.example/agent:2"),
        settings(customPullSecret="pull"),
        settings(annotations={"code-modules-image-key": "image-keys"}),
    ]
    assert len(set(found)) == len(found)
