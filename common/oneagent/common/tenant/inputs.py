"""Settings of a DynaKube's requests, from its fields and from the Secrets and ConfigMaps that they name.

Node and operator read these objects in different ways, so both hand in an `ObjectReader`. The rules are the same:

* `spec.proxy.value` comes before `spec.proxy.valueFrom`.
* A proxy or a CA bundle that the DynaKube names and that is missing is an error. Without it, requests would take a way
  that the administrator has not allowed.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

from oneagent.common.dynakube import DynaKube
from oneagent.common.http import pem
from oneagent.common.http.client import HttpSettings, InvalidSettingsError
from oneagent.common.kubernetes.errors import NotFoundError
from oneagent.common.oci import public_keys
from oneagent.common.tenant import client, proxy_secret

if TYPE_CHECKING:
    from oneagent.common.agents.opentelemetry.telemetry import Authority

ObjectName = tuple[Literal["Secret", "ConfigMap"], str]
"""Kind and name of an object in the DynaKubes' namespace."""

CERTIFICATES_KEY: Final = "certs"

_HEADER: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_MAX_HEADERS_BYTES: Final = 12 << 10
"""Of all headers, encoded: the agents' file of variables has a limit."""
_MAX_CA_BYTES: Final = 1 << 20
"""As much as an object of the API server may have"""


class ObjectReader(Protocol):
    """Contents of the objects in the DynaKubes' namespace, decoded. Both methods raise `ApiError`."""

    def secret(self, name: str) -> Mapping[str, str]: ...

    def config_map(self, name: str) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Inputs:
    """An `ObjectReader` over objects that were read beforehand; None for a missing one."""

    contents: Mapping[ObjectName, Mapping[str, str] | None] = field(default_factory=dict, repr=False)
    versions: Mapping[ObjectName, str] = field(default_factory=dict, compare=False)
    """Identity and resource version of each object that exists"""

    def secret(self, name: str) -> Mapping[str, str]:
        return self._content("Secret", name)

    def config_map(self, name: str) -> Mapping[str, str]:
        return self._content("ConfigMap", name)

    def digest(self, names: frozenset[ObjectName]) -> str:
        """Return a digest of the versions of these objects; empty if none of them exists."""
        found = sorted((*name, self.versions[name]) for name in names if name in self.versions)
        return hashlib.sha256("\n".join(map("/".join, found)).encode()).hexdigest()[:16] if found else ""

    def _content(self, kind: Literal["Secret", "ConfigMap"], name: str) -> Mapping[str, str]:
        content = self.contents.get((kind, name))
        if content is None:
            raise NotFoundError(f"the {kind} {name} does not exist")
        return content


def referenced_objects(dynakube: DynaKube) -> frozenset[ObjectName]:
    """Return the objects that requests to a DynaKube's tenant and registry need."""
    objects: set[ObjectName] = set()
    if dynakube.tokens_secret:
        objects.add(("Secret", dynakube.tokens_secret))
    objects |= exporter_objects(dynakube)
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
    objects |= exporter_objects(dynakube)
    if dynakube.trusted_cas:
        objects.add(("ConfigMap", dynakube.trusted_cas))
    return frozenset(objects)


def exporter_objects(dynakube: DynaKube) -> frozenset[ObjectName]:
    """Return the objects with the exporter's headers and CA."""
    objects: set[ObjectName] = set()
    if dynakube.telemetry is not None and dynakube.telemetry.headers_secret:
        objects.add(("Secret", dynakube.telemetry.headers_secret))
    if dynakube.telemetry is not None and (authority := dynakube.telemetry.authority) is not None:
        objects.add((authority.kind, authority.name))
    return frozenset(objects)


def poll_settings(dynakube: DynaKube) -> tuple[object, ...]:
    """Return the fields of a DynaKube that change the result of a poll."""
    return (
        *(dynakube.api_url, dynakube.tokens_secret, dynakube.network_zone),
        *(dynakube.proxy, dynakube.proxy_secret, dynakube.no_proxy),
        *(dynakube.trusted_cas, dynakube.skip_cert_check, dynakube.host_group),
        *(dynakube.uses_public_registry, dynakube.public_registry),
        *(dynakube.package, dynakube.pull_policy, dynakube.pull_secret, dynakube.image_key),
        (dynakube.telemetry.headers_secret, dynakube.telemetry.authority) if dynakube.telemetry is not None else "",
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


def exporter_headers(secret: str, objects: ObjectReader) -> Mapping[str, str]:
    """Return the headers that a Secret has; `InvalidSettingsError` with the remedy, or `ApiError`."""
    where = f"spec.exporter.headersSecret: the Secret {secret}"
    try:
        headers = {key: value.strip() for key, value in objects.secret(secret).items()}
    except NotFoundError:
        raise InvalidSettingsError(f"{where} does not exist: create it with a key for each header") from None
    for key, value in headers.items():
        if not _HEADER.fullmatch(key) or not value.isprintable():
            raise InvalidSettingsError(f"{where} has the key {key[:80]!r}, whose name or value can be no header")
    if sum(len(key) + 3 * len(value.encode()) for key, value in headers.items()) > _MAX_HEADERS_BYTES:
        raise InvalidSettingsError(f"{where} has too much for headers: {_MAX_HEADERS_BYTES // 3} bytes are possible")
    return headers


def exporter_ca(authority: Authority, objects: ObjectReader) -> str:
    """Return the certificates that an object has at a key; `InvalidSettingsError` with the remedy, or `ApiError`.

    Nothing else that may be beside them in the text, such as a private key, comes along.
    """
    field = "configMapName" if authority.kind == "ConfigMap" else "secretName"
    where = f"spec.exporter.tls.{field}: the {authority.kind} {authority.name}"
    read = objects.config_map if authority.kind == "ConfigMap" else objects.secret
    try:
        content = read(authority.name)
    except NotFoundError:
        remedy = f"create it with PEM certificates at the key {authority.key}"
        raise InvalidSettingsError(f"{where} does not exist: {remedy}") from None
    if authority.key not in content:
        remedy = "put PEM certificates there, or name another key in spec.exporter.tls.ca_file"
        raise InvalidSettingsError(f"{where} has no key {authority.key}: {remedy}")
    certificates = pem.find_certificates(content[authority.key])
    if len(certificates) > _MAX_CA_BYTES:
        raise InvalidSettingsError(f"{where} has more than {_MAX_CA_BYTES >> 20} MiB at the key {authority.key}")
    try:
        # Not the system's as well: the context has these alone.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        remedy = "put PEM certificates there, which begin with -----BEGIN CERTIFICATE-----"
        raise InvalidSettingsError(f"{where} has no valid certificate at the key {authority.key}: {remedy}") from None
    return certificates


def http_settings(dynakube: DynaKube, objects: ObjectReader) -> HttpSettings:
    """Return how requests to the tenant and to registries travel; `InvalidSettingsError`, or `ApiError`."""
    return HttpSettings(
        proxy=_proxy(dynakube, objects),
        no_proxy=tuple(re.split(r"[\s,]+", dynakube.no_proxy.strip())),
        trusted_cas=_trusted_cas(dynakube, objects),
        skip_cert_check=dynakube.skip_cert_check,
    )


def _proxy(dynakube: DynaKube, objects: ObjectReader) -> str:
    if dynakube.proxy or not dynakube.proxy_secret:
        return dynakube.proxy
    where = f"spec.proxy.valueFrom: the Secret {dynakube.proxy_secret}"
    try:
        content = objects.secret(dynakube.proxy_secret)
    except NotFoundError:
        raise InvalidSettingsError(f"{where} does not exist: create it with the proxy's URL at the key proxy") from None
    if fault := proxy_secret.find_fault(content):
        raise InvalidSettingsError(f"{where} {fault}")
    return content[proxy_secret.KEY]


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
