"""Which Secrets and ConfigMaps a DynaKube names."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest

from oneagent.common import dynakube
from oneagent.common.http.client import InvalidSettingsError
from oneagent.common.identifiers import Version
from oneagent.common.kubernetes.errors import NotFoundError
from oneagent.common.oci import reference
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import image_resolver, inputs, poll
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.poll import TenantState
from oneagent.csi_driver.provisioner import package_sources
from oneagent.csi_driver.store import store_key
from tests.fakes import packages
from tests.fakes.provisioner import manifest

PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"
DIGEST = "sha256:" + "a" * 64
NAMING: dict[str, Any] = {
    "tokens": "tokens",
    "customPullSecret": "pull",
    "proxy": {"valueFrom": "proxy"},
    "trustedCAs": "authorities",
}
IMAGES = ("", "127.0.0.1:1/agent:1", f"127.0.0.1:1/agent@{DIGEST}", "oci-layout:/a:1", "file:///a.zip")


class Recording:
    """An `ObjectReader` without objects, or with empty ones, that records what it is asked for."""

    def __init__(self, *, empty: bool) -> None:
        self.read = set[inputs.ObjectName]()
        self._empty = empty

    def secret(self, name: str) -> Mapping[str, str]:
        return self._read(("Secret", name))

    def config_map(self, name: str) -> Mapping[str, str]:
        return self._read(("ConfigMap", name))

    def _read(self, name: inputs.ObjectName) -> Mapping[str, str]:
        self.read.add(name)
        if self._empty:
            return {"proxy": "http://127.0.0.1:1", "certs": ""}
        raise NotFoundError(name[1])


def test_are_all_that_its_fields_name() -> None:
    obj = manifest(api_url="https://a.example/api", annotations={"code-modules-image-key": "image-keys"}, **NAMING)
    assert inputs.named_objects(dynakube.from_object(obj)) == {
        ("Secret", "tokens"),
        ("Secret", "pull"),
        ("Secret", "proxy"),
        ("Secret", "image-keys"),
        ("ConfigMap", "authorities"),
    }


def test_are_the_secret_of_its_own_name_if_it_names_none() -> None:
    obj = manifest(api_url="https://a.example/api", annotations={"code-modules-image-key": PEM})
    assert inputs.named_objects(dynakube.from_object(obj)) == {("Secret", "demo")}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("key", ["", "image-keys", PEM])
@pytest.mark.parametrize("empty", [True, False])
def test_are_all_that_nodes_and_operator_read(image: str, key: str, empty: bool) -> None:
    url = "http://127.0.0.1:1/api"
    annotations = {"code-modules-image-key": key} if key else {}
    for naming in ({}, NAMING, *({field: value} for field, value in NAMING.items())):
        kube = dynakube.from_object(manifest(api_url=url, image=image, annotations=annotations, **naming))
        objects = Recording(empty=empty)
        poll.poll(kube, objects, TenantState(), requests=poll.Requests(scopes=True), now=lambda: 1.0)
        if (named := kube.image or kube.image_layout) is not None:
            signatures = image_resolver.MemorySignatures()
            named = reference.parse(image) if kube.image else named
            image_resolver.resolve(kube, named, objects, ImageState(), Registries(), signatures)
        with contextlib.suppress(InvalidSettingsError, NotFoundError):
            source = package_sources.find_kind(kube)
            key = source.version_key(kube, Version(packages.VERSION)) or store_key.of_image(f"sha256:{'0' * 64}")
            source.open_source(kube, key, objects, Registries())
        assert objects.read <= inputs.named_objects(kube)
        assert inputs.referenced_objects(kube) <= inputs.named_objects(kube)


UNREADABLE = "a password that agents cannot read: it must have none of space ' ` , & = + % \\"


def with_proxy(value: str | None) -> str:
    """The proxy of a DynaKube whose Secret has this value."""
    kube = dynakube.from_object(manifest(api_url="https://a.example/api", proxy={"valueFrom": "proxy"}))
    content = {} if value is None else {"proxy": value}
    return inputs.http_settings(kube, inputs.Inputs({("Secret", "proxy"): content})).proxy


@pytest.mark.parametrize(
    "url", ["http://proxy:3128", "https://me:pa%24ss@proxy.example:3128", "http://[fd00::1]:3128", "http://10.0.0.1"]
)
def test_a_proxy_from_a_secret_is_used_as_it_is(url: str) -> None:
    assert with_proxy(url) == url


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "has nothing at the key proxy: put the proxy's URL there"),
        ("", "has nothing at the key proxy: put the proxy's URL there"),
        ("proxy.example:3128", "has no URL of a proxy at the key proxy: it must read http://proxy.example:3128"),
        ("ftp://me:secret@proxy.example", "has no URL of a proxy at the key proxy"),
        ("http://me:secret@proxy.example\n", "has no URL of a proxy at the key proxy"),
        ("http://me:se cret@proxy.example", "has no URL of a proxy at the key proxy"),
        ("http://me:secret%2B%26@proxy.example", f"has {UNREADABLE}"),
        ("http://me:secret=x@proxy.example", f"has {UNREADABLE}"),
    ],
)
def test_a_proxy_from_a_secret_that_agents_cannot_use_is_refused_and_not_shown(value: str | None, problem: str) -> None:
    with pytest.raises(InvalidSettingsError) as caught:
        with_proxy(value)
    assert str(caught.value).startswith(f"spec.proxy.valueFrom: the Secret proxy {problem}")
    assert "secret" not in str(caught.value)
