"""Authenticates clients by service account tokens for the package server's audience.

The API server reviews each token (TokenReview). Its answer is cached by the token's hash, for at most a minute and
not beyond the token's expiry, in a bounded number of entries. Concurrent requests with one token share a review. A
malformed token is refused without a review, so that garbage cannot flood the API server.

A deleted service account is therefore refused a minute after the API server refuses it, whose own cache lasts ten
seconds.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import collections
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

import msgspec

from oneagent.common import foreign_json, package_client, typed_json
from oneagent.common.kubernetes.errors import ApiError
from oneagent.operator import api
from oneagent.operator.package_server.errors import BusyError, UnauthenticatedError
from oneagent.operator.package_server.metrics import PackageMetrics

ACCEPTED_SECONDS: Final = 60.0
REFUSED_SECONDS: Final = 5.0
MAX_CACHED: Final = 4096
MAX_CONCURRENT_REVIEWS: Final = 16
REVIEW_TIMEOUT_SECONDS: Final = 10.0

_LONGEST_TOKEN: Final = 8000
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_LATEST: Final = 253402300799
"""The end of the year 9999, in seconds since the epoch."""
_ACCOUNT: Final = "system:serviceaccount:"


class Reviewer(Protocol):
    """The part of `api.Api` that is used here."""

    async def create(self, resource: api.Resource, obj: Mapping[str, Any], namespace: str = "") -> api.Object: ...


class _Claims(msgspec.Struct):
    """Claims of an unverified token; used only to refuse it."""

    exp: Annotated[float, msgspec.Meta(ge=0, le=_LATEST)]
    aud: str | list[str]


@dataclass(frozen=True, slots=True)
class _Review:
    account: str
    """`namespace/name`, or "" for a refused token."""
    until: float


class Authenticator:
    """For one event loop; `now` is the time of day, by which tokens expire, `elapsed` the clock of the cache."""

    def __init__(
        self,
        reviewer: Reviewer,
        metrics: PackageMetrics,
        now: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reviewer = reviewer
        self._metrics = metrics
        self._now, self._elapsed = now, elapsed
        self._cache: collections.OrderedDict[bytes, _Review] = collections.OrderedDict()
        self._running: dict[bytes, asyncio.Task[_Review]] = {}
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_REVIEWS)

    async def authenticate(self, authorization: str) -> str:
        """Return namespace and name of the client.

        `UnauthenticatedError`, or `BusyError` while the API server is unavailable.
        """
        token = _bearer(authorization)
        self._check_claims(token)
        key = hashlib.sha256(token.encode()).digest()
        cached = self._cache.get(key)
        if cached is None or cached.until <= self._elapsed():
            review = self._running.get(key)
            if review is None:
                review = self._running[key] = asyncio.create_task(self._review(key, token))
                review.add_done_callback(lambda task: self._on_reviewed(key, task))
            # Shielded: other requests wait for the same review when this client disconnects.
            cached = await asyncio.shield(review)
        if not cached.account:
            raise UnauthenticatedError("the token is not accepted: it must be a valid service account token")
        return cached.account

    def _check_claims(self, token: str) -> None:
        """Raise `UnauthenticatedError` for a token that has expired or is for another audience."""
        parts = _TOKEN.fullmatch(token)
        try:
            if parts is None:
                raise UnauthenticatedError("the token is not a service account token")
            body = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
            claims = foreign_json.decode(body, _Claims)
        except (foreign_json.DocumentError, binascii.Error):
            raise UnauthenticatedError("the token is not a service account token with an expiry") from None
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if package_client.AUDIENCE not in audiences:
            raise UnauthenticatedError(f"the token is not for the audience {package_client.AUDIENCE}")
        if claims.exp <= self._now():
            raise UnauthenticatedError("the token has expired")

    async def _review(self, key: bytes, token: str) -> _Review:
        spec = {"token": token, "audiences": [package_client.AUDIENCE]}
        try:
            async with asyncio.timeout(REVIEW_TIMEOUT_SECONDS), self._slots:
                answer = await self._reviewer.create(
                    api.TOKEN_REVIEWS,
                    {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec},
                )
        except (ApiError, TimeoutError) as error:
            # The API server's error text may contain the token: it is not passed on.
            self._metrics.reviews.labels("failed").inc()
            raise BusyError("the API server cannot review the token", retry_after=2) from error
        account = _account(answer.get("status") or {})
        self._metrics.reviews.labels("accepted" if account else "refused").inc()
        cache_seconds = ACCEPTED_SECONDS if account else REFUSED_SECONDS
        cached = self._cache[key] = _Review(account, self._elapsed() + cache_seconds)
        self._cache.move_to_end(key)
        while len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)
        return cached

    def _on_reviewed(self, key: bytes, task: asyncio.Task[_Review]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # Retrieved even if all waiting clients have disconnected.


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError(f"a bearer token for the audience {package_client.AUDIENCE} is required")
    if len(token) > _LONGEST_TOKEN:
        raise UnauthenticatedError("the token is too long")
    return token


def _account(status: Mapping[str, Any]) -> str:
    """Return namespace and name of the reviewed service account; "" if the token was refused."""
    user = str((status.get("user") or {}).get("username") or "")
    # An API server without support for audiences omits them, and has not checked them.
    if status.get("authenticated") is not True or package_client.AUDIENCE not in (status.get("audiences") or ()):
        return ""
    return user.removeprefix(_ACCOUNT).replace(":", "/") if user.startswith(_ACCOUNT) else ""


typed_json.prepare(_Claims)
