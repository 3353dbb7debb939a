"""The API server, as the operator writes to it and reads single objects from it; what it watches, kopf watches.

    ApiError
    ├── NotFoundError      404
    ├── ConflictError      409: it exists, or somebody else was faster
    ├── ForbiddenError     401 and 403: a role is missing
    ├── InvalidError       400 and 422: the object is not what the API server takes
    └── UnavailableError   all that passes by itself: 429, 5xx, no connection

Objects are plain dicts: what is not understood here is carried along. Of the official client this takes the
configuration, TLS, and tokens that are renewed; its generated classes are not used.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from kubernetes.aio import client, config

from oneagent.common import identifiers

Object = dict[str, Any]

FIELD_MANAGER: Final = "oneagent-operator"
PAGE_SIZE: Final = 500

_TIMEOUT_SECONDS: Final = 15.0
_AUTHENTICATION: Final = ("BearerToken",)


class ApiError(Exception):
    """The API server has not done what it was asked for; the text says what, and what it answered."""


class NotFoundError(ApiError):
    pass


class ConflictError(ApiError):
    pass


class ForbiddenError(ApiError):
    pass


class InvalidError(ApiError):
    pass


class UnavailableError(ApiError):
    pass


_ERRORS: Final[Mapping[int, type[ApiError]]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidError,
}


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, and where the API server has it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        where = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (f"{root}{where}/{self.plural}", name, subresource) if part)


NAMESPACES: Final = Resource("v1", "Namespace", "namespaces", namespaced=False)
NODES: Final = Resource("v1", "Node", "nodes", namespaced=False)
PODS: Final = Resource("v1", "Pod", "pods")
SECRETS: Final = Resource("v1", "Secret", "secrets")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
DAEMON_SETS: Final = Resource("apps/v1", "DaemonSet", "daemonsets")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
EVENTS: Final = Resource("v1", "Event", "events")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews", namespaced=False)
CSI_DRIVERS: Final = Resource("storage.k8s.io/v1", "CSIDriver", "csidrivers", namespaced=False)
CSI_NODES: Final = Resource("storage.k8s.io/v1", "CSINode", "csinodes", namespaced=False)
DEFINITIONS: Final = Resource(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
MUTATING_WEBHOOKS: Final = Resource(
    "admissionregistration.k8s.io/v1",
    "MutatingWebhookConfiguration",
    "mutatingwebhookconfigurations",
    namespaced=False,
)
VALIDATING_WEBHOOKS: Final = Resource(
    "admissionregistration.k8s.io/v1",
    "ValidatingWebhookConfiguration",
    "validatingwebhookconfigurations",
    namespaced=False,
)


def dynakubes(version: str) -> Resource:
    return Resource(f"{identifiers.API_GROUP}/{version}", "DynaKube", "dynakubes")


def content(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The data of a Secret or ConfigMap as text; what is no text is left out, and reads as missing."""
    data = manifest.get("data") or {}
    if manifest.get("kind") == "ConfigMap":
        return {str(key): str(value) for key, value in data.items()}
    found = {}
    for key, value in data.items():
        with contextlib.suppress(ValueError):
            found[str(key)] = base64.b64decode(value, validate=True).decode()
    return found


async def connect() -> client.ApiClient:
    """A client with the configuration of a pod, or of `KUBECONFIG` or `~/.kube/config`; `ApiError` if there is none."""
    settings = client.Configuration()
    try:
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=settings)
    except (config.ConfigException, OSError, ValueError) as error:
        raise ApiError(f"no API server is configured: {error}") from error
    return client.ApiClient(settings)


class Api:
    """One connection pool; for one event loop."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._client = api_client
        self.requests = 0
        """How many were made; watches are not among them."""

    async def close(self) -> None:
        await self._client.close()

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        return await self._call("GET", resource.path(namespace, name))

    async def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """None if it is not there."""
        try:
            return await self.get(resource, name, namespace)
        except NotFoundError:
            return None

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "") -> AsyncIterator[Object]:
        """All of a kind, page by page; `labels` is a selector."""
        query = {"limit": str(PAGE_SIZE), "labelSelector": labels}
        while True:
            page = await self._call("GET", resource.path(namespace), query)
            for item in page.get("items") or ():
                yield item
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return

    async def create(self, resource: Resource, manifest: Mapping[str, Any], namespace: str = "") -> Object:
        return await self._call("POST", resource.path(namespace), body=manifest)

    async def apply(self, resource: Resource, manifest: Mapping[str, Any], *, subresource: str = "") -> Object:
        """Server-side apply: the fields given are ours from now on, fields that we no longer give go."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], subresource)
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **manifest}
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._call("PATCH", path, query, whole, "application/apply-patch+yaml")

    async def replace(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        """Put; with the `resourceVersion` that it was read with, `ConflictError` if it has changed since."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        return await self._call("PUT", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def merge(
        self, resource: Resource, name: str, patch: Mapping[str, Any], namespace: str = "", *, subresource: str = ""
    ) -> Object:
        """Merge patch: None removes a field. With `metadata.resourceVersion` in it only if nothing has changed."""
        path = resource.path(namespace, name, subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("PATCH", path, query, patch, "application/merge-patch+json")

    async def delete(self, resource: Resource, name: str, namespace: str = "") -> None:
        """What is not there is no error. What the object owns goes after it, in the background."""
        with contextlib.suppress(NotFoundError):
            await self._call("DELETE", resource.path(namespace, name), {"propagationPolicy": "Background"})

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        self.requests += 1
        headers = {"Accept": "application/json", "Content-Type": content_type}
        parameters = [(key, value) for key, value in (query or {}).items() if value]
        what = f"{method} {path}"
        try:
            request = await self._client.param_serialize(
                method, path, {}, parameters, headers, body=body, auth_settings=_AUTHENTICATION
            )
            answer = await self._client.call_api(*request, _request_timeout=_TIMEOUT_SECONDS)
            text = (await answer.read()).decode(errors="replace")
        except client.ApiException as error:
            raise _error(what, error.status or 0, str(error.body or error.reason or "")) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"{what}: {type(error).__name__}: {error}") from error
        if answer.status >= 400:
            raise _error(what, answer.status, text)
        try:
            answered: Object = json.loads(text)
        except ValueError as error:
            raise UnavailableError(f"{what}: the answer is not JSON") from error
        return answered


def _error(what: str, status: int, text: str) -> ApiError:
    """The error for an answer; of a Status object only its message is for people."""
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        message = text
    return _ERRORS.get(status, UnavailableError)(f"{what}: {status}: {message[:1000]}")
