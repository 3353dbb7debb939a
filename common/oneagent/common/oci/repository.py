"""One host's copy of a repository: digests of tags, manifests, and download sources of layers.

All content must have the requested digest, which alone decides; a tag's content the digest that the host sends.
"""

from __future__ import annotations

import hashlib
import urllib.parse
from types import TracebackType
from typing import Final, Self

import httpx2 as httpx

from oneagent.common import unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.oci import auth, hosts
from oneagent.common.oci import manifest as oci_manifest
from oneagent.common.oci import reference as oci_reference

_DIGEST_HEADER: Final = "Docker-Content-Digest"


class Repository:
    """For one thread at a time; close it after use."""

    def __init__(self, endpoint: hosts.Endpoint, login: auth.Login, http: http_client.HttpSettings) -> None:
        self._endpoint = endpoint
        self._login = login
        self._settings = http
        self._http = http_client.create(http)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @property
    def host(self) -> str:
        return self._endpoint.host

    def resolve_tag(self, tag: str) -> str:
        """Return the digest that a tag points to now."""
        if digest := self._request_digest(tag):
            return digest
        body = self._verified(*self._request("GET", f"manifests/{tag}", (200,)))
        # A login page has a digest too.
        try:
            oci_manifest.parse(body, errors.redact_url(f"{self._endpoint.url}/manifests/{tag}"))
        except unpack.PackageError as error:
            raise errors.UnexpectedResponseError(str(error)) from error
        return _digest(body)

    def get_manifest(self, digest: str) -> bytes:
        """Return the manifest with this digest."""
        _, body = self._request("GET", f"manifests/{digest}", (200,))
        _check_digest(body, digest, f"{self._endpoint.url}/manifests/{digest}")
        return body

    def find_by_tag(self, tag: str) -> list[bytes]:
        response, body = self._request("GET", f"manifests/{tag}", (200, 404))
        return [] if response.status_code == 404 else [self._verified(response, body)]

    def list_referrers(self, digest: str, kind: str) -> bytes | None:
        """Return the list of a manifest's referrers of this kind; None if the host keeps no such lists."""
        path = f"referrers/{digest}?artifactType={urllib.parse.quote(kind, safe='')}"
        response, body = self._request("GET", path, (200, 404))
        return None if response.status_code == 404 else body

    def get_config(self, descriptor: oci_manifest.Descriptor) -> bytes:
        """Return a small blob."""
        _, body = self._request("GET", f"blobs/{descriptor.digest}", (200,))
        _check_digest(body, descriptor.digest, f"{self._endpoint.url}/blobs/{descriptor.digest}")
        return body

    def blob_source(self, digest: str) -> download.HttpSource:
        """Return the download source of a blob; another host's copy resumes where this one broke."""
        return download.HttpSource(
            f"{self._endpoint.url}/blobs/{digest}",
            http=self._settings,
            secret=self._login.secret,
            remedy=self._login.remedy,
            authenticator=self._login,
            content_id=digest,
        )

    def _request_digest(self, tag: str) -> str:
        """Return a tag's digest by HEAD, which only saves bytes. Empty if it fails in any way: GET decides."""
        try:
            response, _ = self._request("HEAD", f"manifests/{tag}", None)
        except errors.UnreachableError as error:
            if error.stage in (errors.Stage.BROKEN, errors.Stage.TIMEOUT):
                return ""  # Some proxies send a body, or wait for one.
            raise
        header: str = response.headers.get(_DIGEST_HEADER, "")
        return header if response.status_code == 200 and oci_reference.DIGEST.fullmatch(header) else ""

    def _verified(self, response: httpx.Response, body: bytes) -> bytes:
        """Return the body if it has the digest that the host sent."""
        header = response.headers.get(_DIGEST_HEADER, "")
        if oci_reference.DIGEST.fullmatch(header):
            _check_digest(body, header, str(response.url))
        return body

    def _request(self, method: str, path: str, accepted: tuple[int, ...] | None) -> tuple[httpx.Response, bytes]:
        """Return a response with an accepted status; None accepts each."""
        response, body = self._send(method, path)
        if response.status_code == 401 and self._login.handle_unauthorized(self._http, response):
            response, body = self._send(method, path)
        if accepted is not None and response.status_code not in accepted:
            raise errors.from_response(response, body, secret=self._login.secret, remedy=self._login.remedy)
        return response, body

    def _send(self, method: str, path: str) -> tuple[httpx.Response, bytes]:
        accept = ", ".join(oci_manifest.TYPES) if path.startswith("manifests/") else "*/*"
        headers = {**self._login.headers(), "Accept": accept}
        return self._http.fetch(
            method, f"{self._endpoint.url}/{path}", headers=headers, max_bytes=oci_manifest.MAX_BYTES
        )


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _check_digest(body: bytes, expected: str, url: str) -> None:
    if (actual := _digest(body)) != expected:
        raise errors.UnexpectedResponseError(
            f"{errors.redact_url(url)}: its digest is {actual}, {expected} was expected"
        )
