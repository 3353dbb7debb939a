"""DynaKubes, secrets and ConfigMaps from the API server, and Events to it.

Of lightkube this takes what is laborious to get right: the configuration (in-cluster, `KUBECONFIG` or a
file), TLS, and tokens that kubelet renews under a running process. The requests are made here, on its HTTP
client, because its own `watch` cannot be stopped while nothing happens, goes on after 410 without a list (so
that deletions are missed), and never closes a stream.

Secrets and ConfigMaps are read when asked for and not kept: that is once per download or poll. Nothing
outside the DynaKubes' own namespace is read, but for the DaemonSet that this process runs in.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import lightkube
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User

from oneagent.common import backoff, dynakube, identifiers, logs
from oneagent.common.kubernetes import fields, kubeconfig
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.dynakube_sources import events, watch

log = logging.getLogger(__name__)

PAGE_SIZE: Final = 250

_PLURAL: Final = "dynakubes"
_TIMEOUT: Final = httpx2.Timeout(10.0, connect=5.0)
_DAEMONSET_TIMEOUT: Final = httpx2.Timeout(2.0)
_EVENT_TIMEOUT: Final = httpx2.Timeout(3.0)
_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


def connect(path: Path | None = None, service_account: Path = kubeconfig.SERVICE_ACCOUNT) -> tuple[httpx2.Client, str]:
    """A client for the API server, and the namespace that its configuration names.

    Without a file: in-cluster, then `KUBECONFIG`, then `~/.kube/config`. `UnavailableError` if there is none.
    """

    def make(config: SingleConfig, _: User) -> tuple[httpx2.Client, str]:
        parameters = client_adapter.ConnectionParams(timeout=_TIMEOUT)
        return client_adapter.Client(config, parameters), config.namespace

    try:
        return kubeconfig.use(make, path, service_account)
    except kubeconfig.KubeconfigError as error:
        raise dynakube_sources.UnavailableError(str(error)) from error


class KubernetesSource:
    """A `DynaKubeSource`; `run` belongs to one thread, the rest may be called from any."""

    def __init__(
        self,
        *,
        namespace: str = "",
        kubeconfig: Path | None = None,
        service_account: Path = kubeconfig.SERVICE_ACCOUNT,
        api_version: str = "",
        component: str = identifiers.DISTRIBUTION,
        node: str = "",
        page_size: int = PAGE_SIZE,
        retry: backoff.Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`api_version` as `v1beta6`; empty: the newest that the API server serves."""
        self._http, self._own_namespace = connect(kubeconfig, service_account)
        self._namespace = namespace or self._own_namespace
        self._api = _DynaKubeApi(self._http, self._namespace, api_version, page_size)
        self._watch = watch.Watch(self._api, retry=retry, clock=clock)
        self._events = events.Events(self._send_event, component=component, node=node, clock=clock)

    def run(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        # A thread that sits in recv() cannot look at `stop`; this one ends its connection for it. It lives
        # until `stop` is set, which is what ends `run` as well.
        threading.Thread(target=self._api.hang_up_once, args=(stop,), name="watch-stop", daemon=True).start()
        self._watch.run(changed, stop)

    def secret(self, name: str) -> Mapping[str, str]:
        data = self._data("secrets", name)
        try:
            return {key: base64.b64decode(value, validate=True).decode() for key, value in data.items()}
        except (binascii.Error, UnicodeDecodeError, ValueError):
            # The error's text would show what could not be decoded.
            raise dynakube_sources.UnavailableError(f"secret {name}: its data is not base64 of text") from None

    def config_map(self, name: str) -> Mapping[str, str]:
        return self._data("configmaps", name)

    def event(
        self,
        about: dynakube.DynaKube | dynakube_sources.PodReference,
        kind: dynakube_sources.Kind,
        reason: str,
        message: str,
    ) -> None:
        self._events.say(about, kind, reason, message)

    def has_daemonset(self, name: str) -> bool:
        """Whether a DaemonSet of this process's own namespace is there to stay; `SourceError`."""
        namespace, name = (urllib.parse.quote(part, safe="") for part in (self._own_namespace, name))
        path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
        obj = _parsed(_call(self._http, "GET", path, timeout=_DAEMONSET_TIMEOUT))
        return not (obj.get("metadata") or {}).get("deletionTimestamp")

    def alive(self) -> bool:
        return self._watch.alive()

    def close(self) -> None:
        self._http.close()

    def _data(self, plural: str, name: str) -> dict[str, str]:
        if not fields.is_dns_name(name):
            raise dynakube_sources.NotFoundError(f"{plural}: {name[:80]!r} cannot be the name of an object")
        obj = _parsed(_call(self._http, "GET", f"/api/v1/namespaces/{self._namespace}/{plural}/{name}"))
        data = obj.get("data") or {}
        return {key: value for key, value in data.items() if isinstance(value, str)}

    def _send_event(self, namespace: str, name: str, body: Mapping[str, Any]) -> None:
        path = f"/api/v1/namespaces/{urllib.parse.quote(namespace, safe='')}/events"
        if name:
            path = f"{path}/{urllib.parse.quote(name, safe='')}"
        _call(self._http, "PATCH" if name else "POST", path, body=body, timeout=_EVENT_TIMEOUT)


class _DynaKubeApi:
    """`watch.Api` for the DynaKubes of a namespace."""

    def __init__(self, http: httpx2.Client, namespace: str, api_version: str, page_size: int) -> None:
        self._http = http
        self._namespace = namespace
        self._configured = api_version
        self._page_size = str(page_size)
        self._served = ""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped = False

    def page(self, token: str) -> bytes:
        params = {"limit": self._page_size} | ({"continue": token} if token else {})
        try:
            return _call(self._http, "GET", self._path(), params=params)
        except dynakube_sources.NotFoundError:
            self._served = ""  # This version is no longer served, or the definition is gone.
            raise

    @contextlib.contextmanager
    def stream(self, version: str) -> Iterator[Iterator[bytes]]:
        seconds = random.randint(*watch.WATCH_SECONDS)  # spreads load, guards nothing
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        timeout = httpx2.Timeout(10.0, connect=5.0, read=seconds + 15.0)
        with contextlib.ExitStack() as opened:
            with _translated():
                request = self._http.stream("GET", self._path(), params=params, timeout=timeout)
                answer = opened.enter_context(request)
                if not answer.is_success:
                    answer.read()
                _check(answer)
            try:
                yield iter(()) if self._too_late_for(answer) else _chunks(answer)
            finally:
                with self._lock:
                    self._socket = None

    def hang_up_once(self, stop: threading.Event) -> None:
        """Wait for `stop`, then end the stream that is open, and any that is opened later."""
        stop.wait()
        with self._lock:
            self._stopped = True
            if self._socket is not None:
                # Not close(), which would not wake recv(); not SSLSocket.shutdown(), which would also throw
                # away the TLS state that the other thread is reading with.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _too_late_for(self, answer: httpx2.Response) -> bool:
        """Remember the stream's socket for `hang_up_once`, unless that has already been."""
        found = answer.extensions["network_stream"].get_extra_info("socket")
        with self._lock:
            self._socket = found
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                found.setsockopt(socket.IPPROTO_TCP, option, value)
            return self._stopped

    def _path(self) -> str:
        if not self._served:
            self._served = self._configured or self._newest()
        return f"/apis/{identifiers.API_GROUP}/{self._served}/namespaces/{self._namespace}/{_PLURAL}"

    def _newest(self) -> str:
        """The group's versions come newest first, but not each of them need have DynaKubes."""
        group = _parsed(_call(self._http, "GET", f"/apis/{identifiers.API_GROUP}"))
        for served in (str(each.get("version")) for each in group.get("versions") or ()):
            kinds = _parsed(_call(self._http, "GET", f"/apis/{identifiers.API_GROUP}/{served}"))
            if any(kind.get("name") == _PLURAL for kind in kinds.get("resources") or ()):
                log.info("DynaKubes are read", extra=logs.facts(version=served, namespace=self._namespace))
                return served
        raise dynakube_sources.NotFoundError(f"the API server serves no {_PLURAL}.{identifiers.API_GROUP}")


def _call(
    http: httpx2.Client,
    method: str,
    path: str,
    *,
    params: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    timeout: httpx2.Timeout = _TIMEOUT,
) -> bytes:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    headers = {"Content-Type": kind} if body is not None else {}
    content = json.dumps(body).encode() if body is not None else None
    with _translated():
        answer = http.request(method, path, params=params, content=content, headers=headers, timeout=timeout)
        _check(answer)
        return answer.content


def _chunks(answer: httpx2.Response) -> Iterator[bytes]:
    with _translated():
        yield from answer.iter_bytes()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, lightkube.ConfigError, OSError) as error:
        raise dynakube_sources.UnavailableError(f"the API server cannot be reached: {error!r}") from error


def _check(answer: httpx2.Response) -> None:
    if answer.is_success:
        return
    code, path = answer.status_code, answer.request.url.path
    text = f"{code} for {path}: {_reason(answer)}"
    if code == 404 and f"/apis/{identifiers.API_GROUP}" in path:
        definition = f"{_PLURAL}.{identifiers.API_GROUP}"
        raise dynakube_sources.NotFoundError(f"{text} (is the definition {definition} installed?)")
    if code == 404:
        raise dynakube_sources.NotFoundError(text)
    if code == 410:
        raise watch.GoneError(text)
    if code in (401, 403):
        raise dynakube_sources.ForbiddenError(f"{text} (see the service account's role)")
    seconds = answer.headers.get("Retry-After", "")
    raise dynakube_sources.UnavailableError(text, float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0)


def _reason(answer: httpx2.Response) -> str:
    try:
        return str(_parsed(answer.content).get("message", ""))[:500]
    except dynakube_sources.UnavailableError:
        return answer.reason_phrase


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        obj = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise dynakube_sources.UnavailableError("the API server's answer is not JSON") from error
    if not isinstance(obj, dict):
        raise dynakube_sources.UnavailableError("the API server's answer is not an object")
    return obj
