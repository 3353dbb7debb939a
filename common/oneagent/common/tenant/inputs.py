"""Settings of a DynaKube's requests, from its fields and from the Secrets and ConfigMaps that they name.

Node and operator read these objects in different ways, so both hand in an `ObjectReader`. The rules are the same:

* `spec.proxy.value` comes before `spec.proxy.valueFrom`.
* A proxy or a CA bundle that the DynaKube names and that is missing is an error. Without it, requests would take a way
  that the administrator has not allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from oneagent.common.dynakube import DynaKube
from oneagent.common.http import server_url
from oneagent.common.http.client import HttpSettings, InvalidSettingsError
from oneagent.common.kubernetes.errors import NotFoundError
from oneagent.common.oci import public_keys
from oneagent.common.tenant import client

ObjectName = tuple[Literal["Secret", "ConfigMap"], str]
"""Kind and name of an object in the DynaKubes' namespace."""

PROXY_KEY: Final = "proxy"
CERTIFICATES_KEY: Final = "certs"


class ObjectReader(Protocol):
    """Contents of the objects in the DynaKubes' namespace, decoded. Both methods raise `ApiError`."""

    def secret(self, name: str) -> Mapping[str, str]: ...

    def config_map(self, name: str) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Inputs:
    """An `ObjectReader` over objects that were read beforehand; None for a missing one."""

    contents: Mapping[ObjectName, Mapping[str, str] | None] = field(default_factory=dict, repr=False)

    def secret(self, name: str) -> Mapping[str, str]:
        return self._content("Secret", name)

    def config_map(self, name: str) -> Mapping[str, str]:
        return self._content("ConfigMap", name)

    def _content(self, kind: Literal["Secret", "ConfigMap"], name: str) -> Mapping[str, str]:
        content = self.contents.get((kind, name))
        if content is None:
            raise NotFoundError(f"the {kind} {name} does not exist")
        return content


def referenced_objects(dynakube: DynaKube) -> frozenset[ObjectName]:
    """Return the objects that requests to a DynaKube's tenant and registry need."""
    objects: set[ObjectName] = {("Secret", dynakube.tokens_secret)}
    if dynakube.proxy_secret and not dynakube.proxy:
        objects.add(("Secret", dynakube.proxy_secret))
    if dynakube.trusted_cas:
        objects.add(("ConfigMap", dynakube.trusted_cas))
    if dynakube.image is not None:
        if dynakube.pull_secret:
            objects.add(("Secret", dynakube.pull_secret))
        if dynakube.image_key and not public_keys.is_pem(dynakube.image_key):
            objects.add(("Secret", dynakube.image_key))
    return frozenset(objects)


def named_objects(dynakube: DynaKube) -> frozenset[ObjectName]:
    """Return all objects that a DynaKube names, also those that another field makes needless: nodes may read these."""
    secrets = {dynakube.tokens_secret, dynakube.proxy_secret, dynakube.pull_secret}
    if not public_keys.is_pem(dynakube.image_key):
        secrets.add(dynakube.image_key)
    objects: set[ObjectName] = {("Secret", name) for name in secrets if name}
    if dynakube.trusted_cas:
        objects.add(("ConfigMap", dynakube.trusted_cas))
    return frozenset(objects)


def poll_settings(dynakube: DynaKube) -> tuple[object, ...]:
    """Return the fields of a DynaKube that change the result of a poll."""
    return (
        *(dynakube.api_url, dynakube.tokens_secret, dynakube.network_zone),
        *(dynakube.proxy, dynakube.proxy_secret, dynakube.no_proxy),
        *(dynakube.trusted_cas, dynakube.skip_cert_check, dynakube.host_group),
        *(dynakube.uses_public_registry, dynakube.public_registry),
        *(dynakube.package, dynakube.pull_policy, dynakube.pull_secret, dynakube.image_key),
    )


def tenant_access(dynakube: DynaKube, objects: ObjectReader) -> client.TenantAccess:
    """Return how to reach the tenant; `InvalidSettingsError` with the remedy, or `ApiError`."""
    try:
        tokens = objects.secret(dynakube.tokens_secret)
    except NotFoundError:
        raise client.InvalidTokenError(
            f"the Secret {dynakube.tokens_secret} with the tokens does not exist: create it with the key apiToken"
        ) from None
    return client.TenantAccess(
        api_url=dynakube.api_url,
        api_token=tokens.get("apiToken", ""),
        paas_token=tokens.get("paasToken", ""),
        network_zone=dynakube.network_zone,
        http=http_settings(dynakube, objects),
    )


def http_settings(dynakube: DynaKube, objects: ObjectReader) -> HttpSettings:
    """Return how requests to the tenant and to registries travel; `InvalidSettingsError`, or `ApiError`."""
    return HttpSettings(
        proxy=_proxy(dynakube, objects),
        no_proxy=tuple(part for part in dynakube.no_proxy.replace(" ", "").split(",") if part),
        trusted_cas=_trusted_cas(dynakube, objects),
        skip_cert_check=dynakube.skip_cert_check,
    )


def _proxy(dynakube: DynaKube, objects: ObjectReader) -> str:
    if dynakube.proxy or not dynakube.proxy_secret:
        return dynakube.proxy
    where = f"spec.proxy.valueFrom: the Secret {dynakube.proxy_secret}"
    try:
        proxy = objects.secret(dynakube.proxy_secret).get(PROXY_KEY, "")
    except NotFoundError:
        raise InvalidSettingsError(f"{where} does not exist: create it with the proxy's URL at the key proxy") from None
    if not proxy:
        raise InvalidSettingsError(f"{where} has nothing at the key proxy: put the proxy's URL there")
    # The value is never shown: it may hold a password.
    url = server_url.parse(proxy)
    if url is None:
        raise InvalidSettingsError(
            f"{where} has no URL of a proxy at the key proxy: it must read http://proxy.example:3128, with a password "
            "only in percent-encoding"
        )
    if unusable := server_url.find_unusable(url.password or ""):
        shown = " ".join(map(repr, unusable))
        raise InvalidSettingsError(f"{where} has a password that agents cannot read: it must have none of {shown}")
    return proxy


def _trusted_cas(dynakube: DynaKube, objects: ObjectReader) -> str:
    if not dynakube.trusted_cas:
        return ""
    where = f"spec.trustedCAs: the ConfigMap {dynakube.trusted_cas}"
    try:
        certificates = objects.config_map(dynakube.trusted_cas).get(CERTIFICATES_KEY, "")
    except NotFoundError:
        raise InvalidSettingsError(
            f"{where} does not exist: create it with PEM certificates at the key certs"
        ) from None
    if not certificates:
        raise InvalidSettingsError(f"{where} has nothing at the key certs: put PEM certificates there")
    return certificates
