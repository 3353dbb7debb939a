"""The tenant's deployment API: the latest agent version, the agents' endpoints, the agents' configuration.

One client, one connection pool, one token. Every response is bounded in size, decoded into a typed struct and checked
before it is used. A version and a tenant's UUID become directory names on the node, so only letters, digits, `.`, `_`
and `-` are accepted.

Errors are those of `http.errors`. Impossible settings are `http.client.InvalidSettingsError`, raised at construction.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Annotated, Final, Self, TypeVar

import httpx2 as httpx
import msgspec

from oneagent.common import distribution, foreign_json, identifiers, typed_json
from oneagent.common.agents.oneagent import ruxitagentproc
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.oci import reference

MAX_RESPONSE_BYTES: Final = 1 << 20
MAX_CONFIG_BYTES: Final = 2 << 20
"""The module configuration of a large tenant has some hundred kilobytes."""
MAX_PROPERTIES: Final = 20_000
MAX_ENDPOINTS: Final = 1_000
_MAX_VERSIONS: Final = 10_000
_MAX_IMAGES: Final = 1_000
MAX_TEXT: Final = 4_096

_IMAGES_REMEDY: Final = "use a token that may read container images, or name the images in the DynaKube"
_COMPONENTS: Final = ("oneagent", "codemodules")
_AGENT: Final = "/v1/deployment/installer/agent"
_ARCHITECTURES: Final = {"x86_64": "x86", "aarch64": "arm", "ppc64le": "ppcle", "s390x": "s390"}
DIRECTORY_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_T = TypeVar("_T")


class InvalidTokenError(http_client.InvalidSettingsError):
    """The Secret with the tokens is missing, or a token in it is malformed."""


@dataclass(frozen=True, slots=True)
class TenantAccess:
    """Address and credentials of a tenant. Neither token is in the `repr`."""

    api_url: str
    """As in the DynaKube, ending in `/api`."""
    api_token: str = field(repr=False)
    paas_token: str = field(default="", repr=False)
    """Used instead of the API token where there is one."""
    network_zone: str = ""
    http: http_client.HttpSettings = field(default_factory=http_client.HttpSettings)

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.api_url)
        except httpx.InvalidURL:
            raise http_client.InvalidSettingsError("apiUrl: not a URL such as https://tenant.example/api") from None
        shown = errors.redact_url(self.api_url)
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise http_client.InvalidSettingsError(f"apiUrl: {shown}: https://host/… without a user is needed")
        if url.query or url.fragment or not self.api_url.endswith("/api"):
            raise http_client.InvalidSettingsError(f"apiUrl: {shown}: must end in /api")
        if not self.token:
            raise InvalidTokenError("apiToken: empty: the DynaKube's secret needs apiToken or paasToken")
        if not re.fullmatch(r"[\x21-\x7e]+", self.token):
            raise InvalidTokenError(
                f"{self.token_name}: holds white space or what no token has: is there a line break in it?"
            )

    @property
    def token(self) -> str:
        """The token for the deployment API."""
        return self.paas_token or self.api_token

    @property
    def token_name(self) -> str:
        """The key in the DynaKube's secret that holds `token`."""
        return "paasToken" if self.paas_token else "apiToken"

    @property
    def remedy(self) -> str:
        """Remedy if the tenant rejects the token."""
        return f"check {self.token_name} of the DynaKube's secret: it needs the scope InstallerDownload"

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request. They contain the token: never log them."""
        return {
            "Authorization": f"Api-Token {self.token}",
            "User-Agent": f"{identifiers.DISTRIBUTION}/{distribution.version()}",
        }


@dataclass(frozen=True, slots=True)
class Connection:
    """Endpoints that agents report to, and their credentials."""

    tenant: identifiers.TenantId
    tenant_token: str = field(repr=False)
    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleConfig:
    """The tenant's settings for agents, and their revision."""

    revision: int
    properties: tuple[ruxitagentproc.Property, ...] = field(repr=False)


class Tenant:
    """One tenant's deployment API. Thread-safe; close it after use."""

    def __init__(self, access: TenantAccess) -> None:
        self._access = access
        self._http = http_client.create(access.http, {**access.headers, "Accept": "application/json"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def latest_version(self, *, flavor: str = "default", machine: str | None = None) -> identifiers.Version:
        """Return the latest agent version."""
        params = {"flavor": flavor, "arch": architecture(machine), "bitness": "64"}
        path = f"{_AGENT}/unix/paas/latest/metainfo"
        _, body = self._request(path, params)
        return parse_version(_decode(body, _Latest, path).latestAgentVersion, "latestAgentVersion")

    def available_versions(self, *, flavor: str = "default", machine: str | None = None) -> list[identifiers.Version]:
        """Return all versions that can be downloaded, in the tenant's order."""
        path = f"{_AGENT}/versions/unix/paas"
        _, body = self._request(path, {"flavor": flavor, "arch": architecture(machine)})
        return [parse_version(text, "availableVersions") for text in _decode(body, _Available, path).availableVersions]

    def connection(self) -> Connection | None:
        """Return the agents' endpoints; None if the network zone has none: the tenant names none, or answers 400."""
        params = {"defaultZoneFallback": "true"}
        if self._access.network_zone:
            params["networkZone"] = self._access.network_zone
        path = f"{_AGENT}/connectioninfo"
        status, body = self._request(path, params, tolerated=(400,))
        if status == 400:
            return None
        answer = _decode(body, _Connection, path)
        if not DIRECTORY_NAME.fullmatch(answer.tenantUUID):
            rule = "letters, digits, '.', '_' and '-' are allowed, no '.' first, at most 128 characters"
            raise errors.UnexpectedResponseError(f"tenantUUID: {answer.tenantUUID[:140]!r}: {rule}")
        if not answer.communicationEndpoints:
            return None
        if not answer.tenantToken:
            raise errors.UnexpectedResponseError(f"{path}: tenantToken is empty: agents cannot report without it")
        return Connection(
            identifiers.TenantId(answer.tenantUUID), answer.tenantToken, tuple(answer.communicationEndpoints)
        )

    def module_config(self, revision: int = 0, *, host_group: str = "") -> ModuleConfig | None:
        """Return the tenant's settings for agents; None if nothing changed since `revision`."""
        params = {"revision": str(revision), "sections": "general,agentType"}
        if host_group:
            params["hostgroup"] = host_group
        path = f"{_AGENT}/processmoduleconfig"
        status, body = self._request(path, params, tolerated=(304, 404), max_bytes=MAX_CONFIG_BYTES)
        if status in (304, 404):
            return None
        answer = _decode(body, _ModuleConfig, path)
        return ModuleConfig(answer.revision, tuple(answer.properties))

    def public_images(self, registry: str = "") -> dict[str, str]:
        """Return the newest images of agents in a public registry, by component; without a host, the tenant chooses."""
        path = "/v2/fleetManagement/components/containerImages"
        _, body = self._request(path, {"registry": registry} if registry else {}, remedy=_IMAGES_REMEDY)
        components = _decode(body, _Images, path).components
        images = {image.type: image.imageUri for image in components if image.type in _COMPONENTS}
        for component, image in images.items():
            if not reference.IMAGE.fullmatch(image) or (registry and not image.startswith(f"{registry}/")):
                where = f"of the registry {registry}" if registry else "reference"
                raise errors.UnexpectedResponseError(f"{path}: {component} is {image[:140]!r}: not an image {where}")
        return images

    def scopes(self) -> frozenset[str] | None:
        """Return the token's scopes; None if the tenant does not report them."""
        for path in ("/v2/apiTokens/lookup", "/v1/tokens/lookup"):
            status, body = self._request(path, {}, tolerated=(400, 403, 404, 405), json={"token": self._access.token})
            if status == 200:
                return frozenset(_decode(body, _Scopes, path).scopes)
        return None

    def _request(
        self,
        path: str,
        params: dict[str, str],
        tolerated: tuple[int, ...] = (),
        json: dict[str, str] | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
        remedy: str = "",
    ) -> tuple[int, bytes]:
        """Return status and body, for status 200 or a tolerated one. With `json`, the request is a POST."""
        method = "GET" if json is None else "POST"
        response, body = self._http.fetch(
            method, self._access.api_url + path, params=params, json=json, max_bytes=max_bytes
        )
        if response.status_code != 200 and response.status_code not in tolerated:
            raise errors.from_response(response, body, secret=self._access.token, remedy=remedy or self._access.remedy)
        return response.status_code, body


def package_source(
    access: TenantAccess,
    wanted: identifiers.Version,
    *,
    flavor: str = "default",
    technologies: Sequence[str] = ("all",),
    machine: str | None = None,
) -> download.HttpSource:
    """Return the download of a version's package; `machine` as in `platform.machine()`."""
    if not identifiers.is_version(wanted):
        raise http_client.InvalidSettingsError(_invalid_version("version", wanted))
    params: list[tuple[str, str | int | float | bool | None]] = [
        ("flavor", flavor),
        ("arch", architecture(machine)),
        ("bitness", "64"),
        ("skipMetadata", "true"),
        *(("include", technology) for technology in technologies or ("all",)),
    ]
    url = httpx.URL(f"{access.api_url}{_AGENT}/unix/paas/version/{wanted}", params=params)
    return download.HttpSource(
        str(url), headers=access.headers, http=access.http, secret=access.token, remedy=access.remedy
    )


def architecture(machine: str | None = None) -> str:
    """Return the API's name for a machine name of the kernel, by default this machine's."""
    machine = machine or platform.machine()
    try:
        return _ARCHITECTURES[machine]
    except KeyError:
        known = ", ".join(_ARCHITECTURES)
        raise http_client.InvalidSettingsError(f"machine: {machine}: there are agents for {known} only") from None


def parse_version(text: str, source: str) -> identifiers.Version:
    """Check the name of a version; `source` is its field, for the error."""
    if not identifiers.is_version(text):
        raise errors.UnexpectedResponseError(_invalid_version(source, text))
    return identifiers.Version(text)


def _invalid_version(source: str, text: str) -> str:
    return f"{source}: {text[:140]!r}: not a version: it must be {identifiers.VERSION_FORM}"


def _decode(body: bytes, wanted: type[_T], path: str) -> _T:
    try:
        return foreign_json.decode(body, wanted)
    except foreign_json.DocumentError as error:
        # The library's text names the field, never the value.
        raise errors.UnexpectedResponseError(f"{path}: not the documented response: {error}") from error


_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]


class _Latest(msgspec.Struct):
    latestAgentVersion: str


class _Scopes(msgspec.Struct):
    scopes: list[str]


class _Available(msgspec.Struct):
    availableVersions: Annotated[list[str], msgspec.Meta(max_length=_MAX_VERSIONS)]


class _Connection(msgspec.Struct):
    tenantUUID: str
    tenantToken: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)] = ""
    communicationEndpoints: Annotated[list[_Text], msgspec.Meta(max_length=MAX_ENDPOINTS)] = []


class _ModuleConfig(msgspec.Struct):
    revision: Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)] = 0
    properties: Annotated[list[ruxitagentproc.Property], msgspec.Meta(max_length=MAX_PROPERTIES)] = []


class _Image(msgspec.Struct):
    type: _Text
    imageUri: _Text


class _Images(msgspec.Struct):
    components: Annotated[list[_Image], msgspec.Meta(max_length=_MAX_IMAGES)]


typed_json.prepare(_Latest, _Scopes, _Available, _Connection, _ModuleConfig, _Images)
