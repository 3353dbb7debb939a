"""Authentication at a registry: nothing, a password, or a token from the address that the registry names.

A host asks in its 401 (`WWW-Authenticate`; RFC 9110 section 11, and the distribution project's token
specification). No credentials are sent before that, so a host that needs none gets none. A token is used until it
expires and then requested again.

The host chooses the address, so credentials go to few: the host itself, Docker Hub's issuer for Docker Hub, and what
the administrator lists. An address without TLS is the host itself, if it is listed as one without TLS, or it is listed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Final

import httpx2 as httpx
import msgspec

from oneagent.common import typed_json
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.oci import hosts, pull_secret
from oneagent.common.oci import http as oci_http

_MAX_TOKEN_BYTES: Final = 1 << 20
_DEFAULT_LIFETIME: Final = 60.0
"""Seconds that a token lives if its issuer does not say, by the specification."""
_EXPIRY_MARGIN: Final = 5.0
_DOCKER_HUB: Final = ("registry-1.docker.io", "auth.docker.io")
"""Docker Hub's registry, and its issuer of tokens."""
_CHALLENGE_PART: Final = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))|([A-Za-z][A-Za-z0-9-]*)')


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float = _DEFAULT_LIFETIME


class Login:
    """Credentials and token for one repository of one host; for one thread at a time."""

    def __init__(
        self,
        endpoint: hosts.Endpoint,
        credentials: pull_secret.Credentials | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._clock = clock
        self._authorization = ""
        self._expires_at = 0.0

    @property
    def secret(self) -> str:
        """Text that no message may show."""
        return self._credentials.password if self._credentials else ""

    @property
    def remedy(self) -> str:
        """Advice if the host refuses the request nevertheless."""
        registry = self._endpoint.registry
        if self._credentials:
            return f"check the credentials for {registry} in the pull secret"
        return f"there are no credentials for {registry}: name a pull secret that has them in spec.customPullSecret"

    def headers(self) -> Mapping[str, str]:
        """Return the headers of the next request."""
        if self._authorization and self._clock() < self._expires_at:
            return {"Authorization": self._authorization}
        return {}

    def handle_unauthorized(self, http: http_client.Client, response: httpx.Response) -> bool:
        """React to a 401; True if a retry with new headers is worthwhile. Raises `HttpError`."""
        if response.url.netloc != httpx.URL(self._endpoint.url).netloc:
            return False  # a host that we were sent on to, which our credentials are not for
        challenges = _parse_challenges(", ".join(response.headers.get_list("WWW-Authenticate")))
        sent = response.request.headers.get("Authorization", "")
        if "bearer" in challenges:
            self._fetch_token(http, challenges["bearer"])
        elif "basic" in challenges and self._credentials:
            self._authorization, self._expires_at = self._credentials.basic_auth, float("inf")
        return self._authorization not in ("", sent)

    def _fetch_token(self, http: http_client.Client, challenge: Mapping[str, str]) -> None:
        realm = self._parse_realm(challenge.get("realm", ""))
        params = {"scope": challenge.get("scope") or f"repository:{self._endpoint.path}:pull"}
        if "service" in challenge:
            params["service"] = challenge["service"]
        headers = {"Authorization": self._credentials.basic_auth} if self._credentials else {}
        # Asked for before the request, so that a slow answer shortens the token's life and never prolongs it.
        now = self._clock()
        url = str(realm.copy_merge_params(params))
        response, body = http.fetch("GET", url, headers=headers, max_bytes=_MAX_TOKEN_BYTES)
        if response.status_code != 200:
            raise errors.from_response(response, body, secret=self.secret, remedy=self.remedy)
        where = errors.redact_url(str(realm))
        token = oci_http.decode(body, _Token, where)
        if not re.fullmatch(r"[\x21-\x7e]+", text := token.token or token.access_token):
            raise errors.UnexpectedResponseError(f"{where}: the response has no token")
        self._authorization = f"Bearer {text}"
        self._expires_at = now + max(token.expires_in, _DEFAULT_LIFETIME) - _EXPIRY_MARGIN

    def _parse_realm(self, text: str) -> httpx.URL:
        where = errors.redact_url(self._endpoint.url)
        try:
            realm = httpx.URL(text)
        except httpx.InvalidURL:
            realm = httpx.URL("")
        if realm.scheme not in ("http", "https") or not realm.host or realm.userinfo:
            raise errors.UnexpectedResponseError(
                f"{where}: requires a token, but names no valid realm to request it from"
            )
        if realm.scheme == "http" and not (self._endpoint.plain_http or _host_of(realm) in self._endpoint.realms):
            raise errors.UnexpectedResponseError(
                f"{where}: requires a token from {errors.redact_url(text)}, which is without TLS"
            )
        if self._credentials and not self._may_have_credentials(realm):
            raise errors.UnexpectedResponseError(
                f"{where}: requires a token from {errors.redact_url(text)}, which is another host: its credentials are"
                f" not sent there unless --registry-realms lists {_host_of(realm)}"
            )
        return realm

    def _may_have_credentials(self, realm: httpx.URL) -> bool:
        own = httpx.URL(self._endpoint.url)
        if _host_of(realm) in self._endpoint.realms:
            return True
        if realm.scheme == "http":
            return self._endpoint.plain_http and _host_of(realm) == _host_of(own)
        return realm.host == own.host or (own.host, _host_of(realm)) == _DOCKER_HUB


def _host_of(url: httpx.URL) -> str:
    """Return `host`, or `host:port` if the port is not the scheme's own."""
    return url.netloc.decode("ascii", "replace").lower()


def _parse_challenges(header: str) -> dict[str, dict[str, str]]:
    """Return the parameters of each offered scheme, in lower case."""
    challenges: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for name, quoted, plain, scheme in _CHALLENGE_PART.findall(header):
        if scheme:
            current = challenges.setdefault(scheme.lower(), {})
        else:
            current[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) or plain
    return challenges


typed_json.prepare(_Token)
