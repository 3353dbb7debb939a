"""A small API server: the documented list and watch protocol for a few kinds, over real HTTP.

It stores every change since its last `compact()`. A watch from an older version is answered with 410, as by an API
server whose etcd was compacted. Lists are paged by `limit`, from the version of their first page. Tests cause
failures by `fail_next`, `cut`, `restore`, `send_to_watches`, `forbidden`, `held`, `served`.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Json = dict[str, Any]

GROUP = "dynatrace.com"
_OBJECTS = re.compile(
    r"/(?:api/v1|apis/(?:apps|batch|(?:storage|coordination)\.k8s\.io)/v1|apis/dynatrace\.com/(?P<version>\w+)"
    r"|apis/csi\.oneagent\.dynatrace\.com/v1alpha1)"
    r"(?:/namespaces/(?P<ns>[^/]+))?/(?P<plural>\w+)(?:/(?P<name>[^/]+))?"
)
_IN_NO_NAMESPACE = {"namespaces", "nodes", "csidrivers", "csinodes"}


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class ListRequest:
    """Which objects a request is about, and how much of them."""

    plural: str
    namespace: str
    """Empty for all"""
    fields: str = ""
    labels: str = ""
    metadata_only: bool = False

    def wants(self, plural: str, namespace: str, obj: Json) -> bool:
        if plural != self.plural or self.namespace not in ("", namespace):
            return False
        for term in _terms(self.fields):
            path, _, wanted = term.partition("=")
            value: Any = obj
            for key in path.split("."):
                value = value.get(key, {})
            if value != wanted:
                return False
        has = obj["metadata"].get("labels") or {}
        return all(has.get(key) == value for key, _, value in (pair.partition("=") for pair in _terms(self.labels)))

    def shown(self, obj: Json) -> Json:
        if not self.metadata_only:
            return obj
        return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


@dataclass
class Failure:
    code: int
    plural: str
    watch: bool | None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Backup:
    version: int
    oldest: int
    objects: dict[tuple[str, str, str], Json]
    log: list[tuple[int, str, str, str, Json]]


def _bookmark(version: int) -> Json:
    return {"type": "BOOKMARK", "object": {"kind": "DynaKube", "metadata": {"resourceVersion": str(version)}}}


class KubeApi:
    """Use as a context manager. All state is guarded by one condition, which watches wait on."""

    def __init__(self, *, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.token = token
        self.served = ["v1beta6", "v1beta5"]
        self.dynakube_versions = {"v1beta6", "v1beta5"}
        self.forbidden: set[str] = set()
        self.held: set[str] = set()
        """Of these kinds no single object is answered while they are here; see `release`."""
        self.watch_seconds: float | None = None
        self.forget_next_page = False
        self.requests: list[Request] = []
        self.changed = threading.Condition()
        self.closing = False
        self.cuts = 0
        self.failures: list[Failure] = []
        self.sent_to_watches: list[bytes] = []
        self.open_watches = 0
        self._version = 100
        self._oldest = 100
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._log: list[tuple[int, str, str, str, Json]] = []
        self._pages: dict[str, tuple[int, list[Json]]] = {}
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._tls = tls
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> KubeApi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"

    def kubeconfig(self, path: Path, *, namespace: str = "dynatrace", ca: bytes = b"") -> Path:
        cluster = {"server": self.url}
        if ca:
            cluster["certificate-authority-data"] = base64.b64encode(ca).decode()
        config = {
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self.token} if self.token else {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }
        path.write_text(json.dumps(config))
        return path

    # What a test does to the cluster

    def put(self, plural: str, obj: Json) -> Json:
        namespace = "" if plural in _IN_NO_NAMESPACE else obj["metadata"].setdefault("namespace", "dynatrace")
        key = (plural, namespace, obj["metadata"]["name"])
        with self.changed:
            kind = "MODIFIED" if key in self._objects else "ADDED"
            self._note(kind, key, copy.deepcopy(obj))
            return self._objects[key]

    def delete(self, plural: str, name: str, namespace: str = "dynatrace") -> None:
        with self.changed:
            key = (plural, "" if plural in _IN_NO_NAMESPACE else namespace, name)
            self._note("DELETED", key, copy.deepcopy(self._objects[key]))

    def objects(self, plural: str) -> list[Json]:
        with self.changed:
            return [copy.deepcopy(obj) for key, obj in sorted(self._objects.items()) if key[0] == plural]

    def compact(self) -> None:
        """Forget how the present state came to be."""
        with self.changed:
            self._version += 1
            self._oldest = self._version
            self._log.clear()
            self._pages.clear()

    def backup(self) -> Backup:
        with self.changed:
            return Backup(self._version, self._oldest, copy.deepcopy(self._objects), list(self._log))

    def restore(self, backup: Backup, *, bump: int = 0) -> None:
        """Go on from a backup, as after `etcdutl snapshot restore`.

        With its `--bump-revision` the version of the whole grows and the history is gone, but objects keep theirs.
        """
        with self.changed:
            self._version, self._oldest = backup.version + bump, backup.version + bump if bump else backup.oldest
            self._objects, self._log = copy.deepcopy(backup.objects), [] if bump else list(backup.log)
            self._pages.clear()
        self.cut()

    def cut(self) -> None:
        """Break every open watch in the middle of a line."""
        with self.changed:
            self.cuts += 1
            self.changed.notify_all()

    def send_to_watches(self, event: Json | bytes) -> None:
        with self.changed:
            self.sent_to_watches.append(event if isinstance(event, bytes) else _line(event))
            self.changed.notify_all()

    def bookmark(self) -> int:
        """Move the version on without a change, and tell the watches."""
        with self.changed:
            self._version += 1
            version = self._version
        self.send_to_watches(_bookmark(version))
        return version

    def last_bookmark(self) -> bytes:
        """Sent before the end of a watch, as by an API server."""
        return json.dumps(_bookmark(self._version)).encode() + b"\n"

    def release(self, plural: str) -> None:
        with self.changed:
            self.held.discard(plural)
            self.changed.notify_all()

    def fail_next(
        self,
        code: int,
        *,
        plural: str = "dynakubes",
        watch: bool | None = None,
        times: int = 1,
        **headers: str,
    ) -> None:
        with self.changed:
            self.failures += [Failure(code, plural, watch, headers)] * times

    def seen(self, plural: str, *, watch: bool = False, method: str = "GET") -> list[Request]:
        with self.changed:
            return [
                request
                for request in self.requests
                if request.method == method and f"/{plural}" in request.path and ("watch" in request.query) == watch
            ]

    # What the handler asks of it

    def _note(self, kind: str, key: tuple[str, str, str], obj: Json) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        obj["metadata"].setdefault("uid", f"uid-{self._version}")
        if kind == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = obj
        self._log.append((self._version, key[0], key[1], kind, obj))
        self.changed.notify_all()

    def get(self, plural: str, namespace: str, name: str) -> Json | None:
        return self._objects.get((plural, namespace, name))

    def page(self, request: ListRequest, limit: int, token: str) -> Json | None:
        """One page of a list; `None` if the place to go on from is forgotten."""
        if token:
            if token not in self._pages:
                return None
            version, items = self._pages.pop(token)
            if self.forget_next_page:
                self.forget_next_page = False
                return None
        else:
            version = self._version
            found = [obj for key, obj in sorted(self._objects.items()) if request.wants(*key[:2], obj)]
            items = [request.shown(obj) for obj in found]
        metadata = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            metadata["continue"] = f"page-{version}-{len(items)}"
            self._pages[metadata["continue"]] = (version, items[limit:])
            items = items[:limit]
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}

    def remembers(self, version: int) -> bool:
        return version >= self._oldest

    def since(self, request: ListRequest, version: int) -> list[tuple[int, bytes]]:
        return [
            (at, _line({"type": kind, "object": request.shown(obj)}))
            for at, plural, namespace, kind, obj in self._log
            if at > version and request.wants(plural, namespace, obj)
        ]

    def failure(self, plural: str, watch: bool) -> Failure | None:
        for failure in self.failures:
            if failure.plural == plural and failure.watch in (None, watch):
                self.failures.remove(failure)
                return failure
        return None


class _Handler(BaseHTTPRequestHandler):
    api: KubeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(30)

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        if not (found := self._admit()):
            return
        match, query = found
        plural, namespace, name = match["plural"], match["ns"] or "", match["name"]
        metadata_only = "as=PartialObjectMetadata" in (self.headers["Accept"] or "")
        fields, labels = query.get("fieldSelector", ""), query.get("labelSelector", "")
        request = ListRequest(plural, namespace, fields, labels, metadata_only)
        if name:
            with self.api.changed:
                self.api.changed.wait_for(lambda: plural not in self.api.held or self.api.closing)
                obj = self.api.get(plural, namespace, name)
            self._answer(200, request.shown(obj)) if obj else self._status(404, "NotFound")
        elif "watch" in query:
            self._watch(request, query)
        else:
            limit, token = int(query.get("limit", "0")), query.get("continue", "")
            with self.api.changed:
                page = self.api.page(request, limit, token)
            self._answer(200, page) if page else self._status(410, "Expired")

    def do_POST(self) -> None:
        body = self._body()
        if found := self._admit():
            match = found[0]
            if self.api.get(match["plural"], match["ns"] or "", body["metadata"].get("name", "")):
                self._status(409, "AlreadyExists")
            else:
                self._answer(201, self.api.put(match["plural"], body))

    def do_PATCH(self) -> None:
        body = self._body()
        if not (found := self._admit()):
            return
        match = found[0]
        with self.api.changed:
            obj = self.api.get(match["plural"], match["ns"] or "", match["name"])
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            self._answer(200, self.api.put(match["plural"], body))
        elif obj is None:
            self._status(404, "NotFound")
        elif self.headers["Content-Type"] != "application/merge-patch+json":
            self._status(415, "UnsupportedMediaType")
        else:
            self._answer(200, self.api.put(match["plural"], {**copy.deepcopy(obj), **body}))

    def _admit(self) -> tuple[re.Match[str], dict[str, str]] | None:
        """Record the request and answer it here if it is refused, fails, or asks what is served."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        match = _OBJECTS.fullmatch(url.path)
        with self.api.changed:
            self.api.requests.append(Request(self.command, url.path, query, dict(self.headers)))
            failure = self.api.failure(match["plural"], "watch" in query) if match else None
        if self.api.token and self.headers["Authorization"] != f"Bearer {self.api.token}":
            self._status(401, "Unauthorized")
        elif failure:
            self._status(failure.code, "Injected", failure.headers)
        elif not match:
            self._discovery(url.path)
        elif match["version"] and (
            match["version"] not in self.api.served or match["version"] not in self.api.dynakube_versions
        ):
            self._text(404, "404 page not found\n")
        elif match["plural"] in self.api.forbidden:
            self._status(403, "Forbidden")
        else:
            return match, query
        return None

    def _discovery(self, path: str) -> None:
        versions = [{"groupVersion": f"{GROUP}/{v}", "version": v} for v in self.api.served]
        if path == f"/apis/{GROUP}" and versions:
            self._answer(
                200,
                {"kind": "APIGroup", "name": GROUP, "versions": versions, "preferredVersion": versions[0]},
            )
        elif path.startswith(f"/apis/{GROUP}/") and path.rpartition("/")[2] in self.api.served:
            has = path.rpartition("/")[2] in self.api.dynakube_versions
            kinds = ["edgeconnects"] + (["dynakubes"] if has else [])
            self._answer(200, {"kind": "APIResourceList", "resources": [{"name": kind} for kind in kinds]})
        else:
            self._text(404, "404 page not found\n")

    def _watch(self, request: ListRequest, query: Mapping[str, str]) -> None:
        api = self.api
        version = int(query.get("resourceVersion", "0"))
        with api.changed:
            known, cuts, sent = api.remembers(version), api.cuts, len(api.sent_to_watches)
        if not known:
            self._status(410, "Expired")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seconds = api.watch_seconds or float(query.get("timeoutSeconds", "300"))
        with self._counted():
            for line in self._events(request, version, (cuts, sent), seconds):
                self._chunk(line)
            if api.cuts != cuts:
                self._chunk(b'{"type": "ADDED", "obj')
                self.close_connection = True
            else:
                self._chunk(b"")

    def _events(self, request: ListRequest, version: int, start: tuple[int, int], seconds: float) -> Iterator[bytes]:
        api, (cuts, sent) = self.api, start

        def news() -> bool:
            ended = api.closing or api.cuts != cuts
            return bool(ended or len(api.sent_to_watches) > sent or api.since(request, version))

        while True:
            with api.changed:
                in_time = api.changed.wait_for(news, seconds)
                lines = api.since(request, version)
                extra = api.sent_to_watches[sent:]
                sent += len(extra)
                last = [] if in_time else [api.last_bookmark()]
            for at, line in lines:
                version = at
                yield line
            yield from (*extra, *last)
            if not in_time or api.closing or api.cuts != cuts:
                return

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self.api.changed:
            self.api.open_watches += 1
        try:
            yield
        finally:
            with self.api.changed:
                self.api.open_watches -= 1

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _body(self) -> Json:
        body: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _status(self, code: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        status = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}
        self._answer(code, status, {name.replace("_", "-"): v for name, v in (headers or {}).items()})

    def _answer(self, code: int, obj: Json, headers: Mapping[str, str] | None = None) -> None:
        self._text(code, json.dumps(obj), headers)

    def _text(self, code: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _terms(selector: str) -> list[str]:
    return [term for term in selector.split(",") if term]


def _line(event: Json) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"
