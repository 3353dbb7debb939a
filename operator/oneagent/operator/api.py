"""The operator's client of the API server; requests raise `ApiError`.

Objects are plain dicts, so fields that this version does not know survive. The official client provides the
configuration, TLS, and tokens that are renewed; its generated classes are not used.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client import rest
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import load_incluster_config

from oneagent.common import identifiers
from oneagent.common.agents import objects
from oneagent.common.kubernetes import aiohttp_client
from oneagent.common.kubernetes.errors import KubeconfigError, NotFoundError, UnavailableError

Object = dict[str, Any]

FIELD_MANAGER: Final = "oneagent-operator"
PAGE_SIZE: Final = 500

_TIMEOUT_SECONDS: Final = 15.0
_AUTHENTICATION: Final = ("BearerToken",)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object and its path on the API server."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (f"{root}{scope}/{self.plural}", name, subresource) if part)


NAMESPACES: Final = Resource("v1", "Namespace", "namespaces", namespaced=False)
NODES: Final = Resource("v1", "Node", "nodes", namespaced=False)
PODS: Final = Resource("v1", "Pod", "pods")
SECRETS: Final = Resource("v1", "Secret", "secrets")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
DAEMON_SETS: Final = Resource("apps/v1", "DaemonSet", "daemonsets")
LEASES: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
ROLES: Final = Resource("rbac.authorization.k8s.io/v1", "Role", "roles")
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


INJECTIONS: Final = Resource(objects.INJECTION_API, identifiers.INJECTION_KIND, identifiers.INJECTION_PLURAL)


def decode_data(obj: Mapping[str, Any]) -> dict[str, str]:
    """Return the data of a Secret or ConfigMap, without values that are not text."""
    data = obj.get("data") or {}
    if obj.get("kind") == "ConfigMap":
        return {str(key): str(value) for key, value in data.items()}
    texts = {}
    for key, value in data.items():
        with contextlib.suppress(ValueError):
            texts[str(key)] = base64.b64decode(value, validate=True).decode()
    return texts


async def connect(kubeconfig: Path | None = None) -> client.ApiClient:
    """Connect by `kubeconfig`, or else by the pod's service account, `KUBECONFIG` or `~/.kube/config`.

    `KubeconfigError` without any.
    """
    settings = client.Configuration()
    try:
        if kubeconfig is not None:
            await config.load_kube_config(str(kubeconfig), client_configuration=settings)
        else:
            await _find_configuration(settings)
    except (ConfigException, OSError, ValueError) as error:
        raise KubeconfigError(f"no usable API server configuration: {error}") from error
    # Not shared between sessions: each client has one session.
    settings.client_session_kwargs = {"response_class": aiohttp_client.Response}
    connected = client.ApiClient(settings)
    connected.rest_client = _RestClient(settings)
    return connected


async def _find_configuration(settings: client.Configuration) -> None:
    try:
        load_incluster_config(client_configuration=settings)
    except ConfigException:
        await config.load_kube_config(client_configuration=settings)


class _RestClient(rest.RESTClientObject):
    """Adds TCP keep-alive, and lifts the limit of connections."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp_client.connector(self.ssl_context)


class Api:
    """Requests on one connection pool, for one event loop."""

    def __init__(self, api_client: client.ApiClient) -> None:
        self._client = api_client
        self.requests = 0
        """Requests sent, without the lists and streams of watches."""

    async def close(self) -> None:
        await self._client.close()

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        return await self._call("GET", resource.path(namespace, name))

    async def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """Return None if the object does not exist."""
        try:
            return await self.get(resource, name, namespace)
        except NotFoundError:
            return None

    async def list(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Object]:
        """Yield all objects of a kind, page by page; `labels` and `fields` are selectors."""
        query = {"limit": str(PAGE_SIZE), "labelSelector": labels, "fieldSelector": fields}
        while True:
            page = await self._call("GET", resource.path(namespace), query)
            for item in page.get("items") or ():
                yield item
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return

    async def create(self, resource: Resource, obj: Mapping[str, Any], namespace: str = "") -> Object:
        return await self.post(resource.path(namespace), obj)

    async def post(self, path: str, body: Mapping[str, Any]) -> Object:
        """Send a POST, which creates the object."""
        return await self._call("POST", path, body=body)

    async def apply(self, resource: Resource, obj: Mapping[str, Any], *, subresource: str = "") -> Object:
        """Server-side apply: own the given fields, and remove fields that were given before."""
        metadata = obj["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], subresource)
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        return await self.apply_path(path, body)

    async def apply_path(self, path: str, body: Mapping[str, Any]) -> Object:
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._call("PATCH", path, query, body, "application/apply-patch+yaml")

    async def replace(self, resource: Resource, obj: Mapping[str, Any]) -> Object:
        """Update; with the `resourceVersion` that was read, `ConflictError` if the object has changed since."""
        metadata = obj["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        return await self._call("PUT", path, {"fieldManager": FIELD_MANAGER}, obj)

    async def merge(
        self, resource: Resource, name: str, patch: Mapping[str, Any], namespace: str = "", *, subresource: str = ""
    ) -> Object:
        """Merge patch: None removes a field; `metadata.resourceVersion` makes it conditional."""
        path = resource.path(namespace, name, subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("PATCH", path, query, patch, "application/merge-patch+json")

    async def delete(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Delete an object if it exists; its dependents are deleted in the background."""
        with contextlib.suppress(NotFoundError):
            await self._call("DELETE", resource.path(namespace, name), {"propagationPolicy": "Background"})

    async def read(self, path: str, parameters: Mapping[str, str] | None = None, *, accept: str) -> bytes:
        """Return the body of a response unparsed, for a watch."""
        async with self._request("GET", path, parameters, accept=accept) as response:
            return await response.read()

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, parameters: Mapping[str, str], *, accept: str, silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the body of a response in parts; `SilentError` if nothing comes for so long."""
        timeout = aiohttp_client.stream_timeout(silence_seconds)
        async with self._request("GET", path, parameters, accept=accept, timeout=timeout) as response:
            try:
                yield response.content.iter_any()
            finally:
                response.close()

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        self.requests += 1
        async with self._request(method, path, query, body=body, content_type=content_type) as response:
            content = await response.read()
        try:
            answer: Object = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UnavailableError(f"{method} {path}: the response is not JSON") from error
        return answer

    @contextlib.asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        accept: str = "application/json",
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout | float = _TIMEOUT_SECONDS,  # noqa: ASYNC109 - the client's
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        request = f"{method} {path}"
        headers = {"Accept": accept, "Content-Type": content_type}
        parameters = [(key, value) for key, value in (query or {}).items() if value]
        if isinstance(timeout, float):
            timeout = aiohttp_client.timeout(timeout)
        try:
            serialized = await self._client.param_serialize(
                method, path, {}, parameters, headers, body=body, auth_settings=_AUTHENTICATION
            )
            answer = await self._client.call_api(*serialized, _request_timeout=timeout)
            async with answer.response as response:
                await aiohttp_client.check(request, response)
                yield response
        except client.ApiException as error:
            raise UnavailableError(f"{request}: {error.reason}") from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise aiohttp_client.failure(request, error) from error
