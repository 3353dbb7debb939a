"""DynaKubes, Secrets and ConfigMaps from the API server, and Events to it.

Secrets and ConfigMaps are read on demand and not cached: once per download or poll. Nothing outside the DynaKubes'
own namespace is read, except the DaemonSet that this process runs in.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx2

from oneagent.common import backoff, dynakube, identifiers, logs, node_lease
from oneagent.common.agents import objects, opentelemetry
from oneagent.common.kubernetes import client, errors, events, fields, list_watch
from oneagent.common.node_lease import NodeReport
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.dynakube_sources import api_client, dynakube_watch

log = logging.getLogger(__name__)

_PLURAL: Final = "dynakubes"
_DAEMONSET_TIMEOUT: Final = httpx2.Timeout(2.0)
_EVENT_TIMEOUT: Final = httpx2.Timeout(3.0)
_REMEMBERED_EVENTS: Final = 256
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"
_NOT_GRANTED: Final = (
    "nodes may not read {} {} yet: the operator allows what DynaKubes name, and their condition NodeAccess has the "
    "reason if it cannot; without an operator, bind a Role of your own to this service account"
)


def own_pod(name: str, uid: str) -> dict[str, Any] | None:
    """Return the owner reference to the pod of this process; None if it is unknown."""
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid} if name and uid else None


class KubernetesSource:
    """A `DynaKubeSource`; `run` belongs to one thread, the rest may be called from any."""

    def __init__(
        self,
        *,
        namespace: str = "",
        kubeconfig: Path | None = None,
        service_account: Path = client.SERVICE_ACCOUNT,
        api_version: str = "",
        component: str = identifiers.DISTRIBUTION,
        node: str = "",
        pod: Mapping[str, Any] | None = None,
        page_size: int = dynakube_watch.PAGE_SIZE,
        periods: list_watch.Periods = list_watch.NODE_PERIODS,
        retry: backoff.Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        operator_wait_seconds: float | None = dynakube_sources.OPERATOR_WAIT_SECONDS,
        injections: bool = False,
    ) -> None:
        """`injections`: OpenTelemetryInjections become DynaKubes.

        `api_version` as in `NEWEST`; empty: the newest that the API server serves. `pod` is `own_pod`."""
        self._component, self._node, self._pod = component, node, pod
        self.operator_wait_seconds = operator_wait_seconds
        self._http, self._own_namespace = api_client.connect(kubeconfig, service_account)
        self._namespace = namespace or self._own_namespace
        api = _DynaKubeApi(self._http, self._namespace, api_version)
        self._watch = dynakube_watch.DynaKubeWatch(api, page_size=page_size, periods=periods, retry=retry, clock=clock)
        self._apis = [api]
        self._injections: dynakube_watch.DynaKubeWatch | None = None
        if injections:
            from oneagent.common.agents.opentelemetry import injection  # Needed only where there are such objects.

            api = _InjectionApi(self._http, self._namespace)
            self._apis.append(api)
            self._injections = dynakube_watch.DynaKubeWatch(
                api,
                page_size=page_size,
                periods=periods,
                retry=backoff.Backoff(dynakube_watch.FIRST_PAUSE, dynakube_watch.LONGEST_PAUSE),
                clock=clock,
                name=identifiers.INJECTION_PLURAL,
                read=injection.read,
                name_prefix=opentelemetry.PROFILE.name_prefix,
            )
        self._events = events.Aggregator(
            component, node=node, patch_namespace=self._namespace, remembered=_REMEMBERED_EVENTS, clock=clock
        )
        self._events_lock = threading.Lock()

    def run(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        # A thread that sits in recv() cannot look at `stop`; this one ends its connection for it. It lives
        # until `stop` is set, which is what ends `run` as well.
        for api in self._apis:
            threading.Thread(target=api.stop_stream, args=(stop,), name="watch-stop", daemon=True).start()
        if self._injections is None:
            self._watch.run(changed, stop)
            return
        both = dynakube_sources.BothKinds(changed)
        arguments = (both.set_second, stop)
        second = threading.Thread(target=self._injections.run, args=arguments, name="injection-watch", daemon=True)
        second.start()
        self._watch.run(both.set_first, stop)
        second.join()

    def secret(self, name: str) -> Mapping[str, str]:
        data = self._data("secrets", name)
        try:
            return {key: base64.b64decode(value, validate=True).decode() for key, value in data.items()}
        except (binascii.Error, UnicodeDecodeError, ValueError):
            # The error's text would show what could not be decoded.
            raise errors.UnavailableError(f"secret {name}: its data is not base64 of text") from None

    def config_map(self, name: str) -> Mapping[str, str]:
        return self._data("configmaps", name)

    def event(
        self,
        about: dynakube.DynaKube | dynakube_sources.PodReference,
        kind: dynakube_sources.Kind,
        reason: str,
        message: str,
        related: dynakube_sources.PodReference | None = None,
    ) -> None:
        pod = _subject(related) if related is not None else None
        with self._events_lock:
            write = self._events.add(events.Event(_subject(about), kind, reason, message, pod))
            try:
                if write is not None:
                    self._send(write)
            except errors.ApiError as error:
                log.warning("event write failed", extra=logs.fields(object=about.name, reason=reason, error=error))

    def report(self, report: NodeReport) -> None:
        if not self._node:
            return
        # An owner in another namespace would have the Lease deleted.
        owner = self._pod if self._namespace == self._own_namespace else None
        body = node_lease.manifest(self._node, self._namespace, report, owner)
        name = urllib.parse.quote(node_lease.lease_name(self._node), safe="")
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases/{name}"
        params = {"fieldManager": self._component, "force": "true"}
        _call(self._http, "PATCH", path, params=params, body=body, content_type=_APPLY)

    def has_daemonset(self, name: str) -> bool:
        """The DaemonSet of this process's own namespace exists and is not being deleted; `ApiError`."""
        namespace, name = (urllib.parse.quote(part, safe="") for part in (self._own_namespace, name))
        path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
        obj = _decode_object(_call(self._http, "GET", path, timeout=_DAEMONSET_TIMEOUT))
        return not (obj.get("metadata") or {}).get("deletionTimestamp")

    def silent_seconds(self) -> float:
        seconds = self._watch.silent_seconds()
        return seconds if self._injections is None else max(seconds, self._injections.silent_seconds())

    def close(self) -> None:
        self._http.close()

    def _data(self, plural: str, name: str) -> dict[str, str]:
        if not fields.is_dns_name(name):
            raise errors.NotFoundError(f"{plural}: {name[:80]!r} cannot be the name of an object")
        try:
            content = _call(self._http, "GET", f"/api/v1/namespaces/{self._namespace}/{plural}/{name}")
        except errors.ForbiddenError as error:
            raise errors.ForbiddenError(f"{_NOT_GRANTED.format(plural, name)} ({error})") from error
        obj = _decode_object(content)
        data = obj.get("data") or {}
        return {key: value for key, value in data.items() if isinstance(value, str)}

    def _send(self, write: events.Write) -> None:
        try:
            method, kind = ("PATCH", _MERGE) if write.verb == "patch" else ("POST", "application/json")
            _call(self._http, method, write.path, body=write.body, content_type=kind, timeout=_EVENT_TIMEOUT)
        except errors.ApiError as error:
            if write.verb == "patch" and isinstance(error, errors.NotFoundError):
                return self._send(self._events.recreate(write))
            self._events.discard(write)
            raise


class _DynaKubeApi:
    """`dynakube_watch.Api` for the DynaKubes of a namespace."""

    def __init__(self, http: httpx2.Client, namespace: str, api_version: str) -> None:
        self._http = http
        self._namespace = namespace
        self._configured = api_version
        self._served = ""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped = False

    def get(self, request: list_watch.ListRequest) -> bytes:
        try:
            return _call(self._http, "GET", self._path(), params=request.query)
        except errors.NotFoundError:
            self._served = ""  # This version is no longer served, or the definition is gone.
            raise

    @contextlib.contextmanager
    def stream(self, request: list_watch.WatchRequest) -> Iterator[Iterator[bytes]]:
        timeout = httpx2.Timeout(10.0, connect=client.CONNECT_SECONDS, read=request.silence_seconds)
        with contextlib.ExitStack() as opened:
            with _translated():
                stream = self._http.stream("GET", self._path(), params=request.query, timeout=timeout)
                response = opened.enter_context(stream)
                if not response.is_success:
                    response.read()
                _check(response)
            try:
                yield iter(()) if self._is_too_late(response) else _chunks(response)
            finally:
                with self._lock:
                    self._socket = None

    def stop_stream(self, stop: threading.Event) -> None:
        """Wait for `stop`, then end the stream that is open, and any that is opened later."""
        stop.wait()
        with self._lock:
            self._stopped = True
            if self._socket is not None:
                # Not close(), which would not wake recv(); not SSLSocket.shutdown(), which would also throw
                # away the TLS state that the other thread is reading with.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _is_too_late(self, response: httpx2.Response) -> bool:
        """Store the stream's socket for `stop_stream`; true if that has already been called."""
        sock = response.extensions["network_stream"].get_extra_info("socket")
        with self._lock:
            self._socket = sock
            client.keep_alive(sock)
            return self._stopped

    def _path(self) -> str:
        if not self._served:
            self._served = self._configured or self._newest()
        return f"/apis/{identifiers.API_GROUP}/{self._served}/namespaces/{self._namespace}/{_PLURAL}"

    def _newest(self) -> str:
        """The group's versions come newest first, but not each of them has DynaKubes."""
        group = _decode_object(_call(self._http, "GET", f"/apis/{identifiers.API_GROUP}"))
        for served in (str(each.get("version")) for each in group.get("versions") or ()):
            kinds = _decode_object(_call(self._http, "GET", f"/apis/{identifiers.API_GROUP}/{served}"))
            if any(kind.get("name") == _PLURAL for kind in kinds.get("resources") or ()):
                log.info("DynaKube version chosen", extra=logs.fields(version=served, namespace=self._namespace))
                return served
        raise errors.NotFoundError(f"the API server serves no {_PLURAL}.{identifiers.API_GROUP}")


class _InjectionApi(_DynaKubeApi):
    """The same for OpenTelemetryInjections, of which there is one version."""

    def __init__(self, http: httpx2.Client, namespace: str) -> None:
        super().__init__(http, namespace, "")

    def _path(self) -> str:
        return f"/apis/{objects.INJECTION_API}/namespaces/{self._namespace}/{identifiers.INJECTION_PLURAL}"


def _subject(about: dynakube.DynaKube | dynakube_sources.PodReference) -> events.Subject:
    if isinstance(about, dynakube_sources.PodReference):
        return events.Subject("v1", "Pod", about.namespace, about.name, about.uid)
    return objects.subject_of_dynakube(about)


def _call(
    http: httpx2.Client,
    method: str,
    path: str,
    *,
    params: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    content_type: str = "application/json",
    timeout: httpx2.Timeout = api_client.TIMEOUT,
) -> bytes:
    headers = {"Content-Type": content_type} if body is not None else {}
    content = json.dumps(body).encode() if body is not None else None
    with _translated():
        response = http.request(method, path, params=params, content=content, headers=headers, timeout=timeout)
        _check(response)
        return response.content


def _chunks(response: httpx2.Response) -> Iterator[bytes]:
    with _translated():
        yield from response.iter_bytes()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException as error:
        raise errors.SilentError(f"the API server does not answer: {error!r}") from error
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
        raise errors.UnavailableError(f"the API server cannot be reached: {error!r}") from error
    except Exception as error:
        # Credentials of a kubeconfig; only then is lightkube loaded.
        if not type(error).__module__.startswith("lightkube."):
            raise
        raise errors.UnavailableError(f"the API server cannot be reached: {error!r}") from error


def _check(response: httpx2.Response) -> None:
    if response.is_success:
        return
    method, path, retry_after = response.request.method, response.request.url.path, response.headers.get("Retry-After")
    error = errors.from_response(
        f"{method} {path}", response.status_code, response.reason_phrase, response.content, retry_after or ""
    )
    if isinstance(error, errors.NotFoundError) and f"/apis/{identifiers.API_GROUP}" in path:
        raise errors.NotFoundError(f"{error} (is the definition {_PLURAL}.{identifiers.API_GROUP} installed?)")
    raise error


def _decode_object(content: bytes) -> dict[str, Any]:
    return errors.decode(content, dict[str, Any])
