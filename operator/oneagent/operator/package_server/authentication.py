"""Who a caller is: a service account of this cluster, by a token that is meant for this endpoint and no other.

The API server is asked by TokenReview. Its answer is kept for a minute at most and never beyond the token's own
end, by the token's hash, in a bounded number; many requests with one token ask once. What is plainly no token of
this kind is refused without asking, so nobody can make us flood the API server with garbage.

A service account that is deleted is thus refused a minute after the API server does so, which has a memory of ten
seconds itself.
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
from typing import Any, Final, Protocol

import msgspec

from oneagent.common import package_client
from oneagent.common.kubernetes.errors import ApiError
from oneagent.operator import api
from oneagent.operator.package_server.errors import BusyError, NotProvenError
from oneagent.operator.package_server.metrics import PackageMetrics

PROVEN_SECONDS: Final = 60.0
REFUSED_SECONDS: Final = 5.0
REMEMBERED: Final = 4096
AT_ONCE: Final = 16
REVIEW_SECONDS: Final = 10.0

_LONGEST_TOKEN: Final = 8000
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")
_ACCOUNT: Final = "system:serviceaccount:"


class Reviewer(Protocol):
    """The API server, as far as it is needed; `api.Api` is one."""

    async def create(self, resource: api.Resource, manifest: Mapping[str, Any], namespace: str = "") -> api.Object: ...


class _Claims(msgspec.Struct):
    """What a token says of itself; believed only where it speaks against it."""

    exp: float
    aud: str | list[str]


@dataclass(frozen=True, slots=True)
class _Known:
    account: str
    """`namespace/name`, or "" for a token that was refused."""
    until: float


class Callers:
    """For one event loop; `now` is the time of day."""

    def __init__(self, reviewer: Reviewer, metrics: PackageMetrics, now: Callable[[], float] = time.time) -> None:
        self._reviewer = reviewer
        self._metrics = metrics
        self._now = now
        self._known: collections.OrderedDict[bytes, _Known] = collections.OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def account(self, authorization: str) -> str:
        """Namespace and name of the caller; `NotProvenError`, or `BusyError` while the API server is away."""
        token = _bearer(authorization)
        expires_at = self._expiry(token)
        key = hashlib.sha256(token.encode()).digest()
        known = self._known.get(key)
        if known is None or known.until <= self._now():
            asking = self._asking.get(key)
            if asking is None:
                asking = self._asking[key] = asyncio.create_task(self._review(key, token, expires_at))
                asking.add_done_callback(lambda task: self._answered(key, task))
            # Shielded: the others who wait for the same answer stay when this caller goes away.
            known = await asyncio.shield(asking)
        if not known.account:
            raise NotProvenError("the token is not accepted: it must be a service account's, and valid")
        return known.account

    def _expiry(self, token: str) -> float:
        """When the token ends; `NotProvenError` if it has, or is not for us by its own words."""
        parts = _TOKEN.fullmatch(token)
        try:
            if parts is None:
                raise NotProvenError("the token is not a service account's")
            body = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
            claims = msgspec.json.decode(body, type=_Claims)
        except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error):
            raise NotProvenError("the token is not a service account's for a limited time") from None
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if package_client.AUDIENCE not in audiences:
            raise NotProvenError(f"the token is not for the audience {package_client.AUDIENCE}")
        if claims.exp <= self._now():
            raise NotProvenError("the token has expired")
        return claims.exp

    async def _review(self, key: bytes, token: str, expires_at: float) -> _Known:
        spec = {"token": token, "audiences": [package_client.AUDIENCE]}
        try:
            async with asyncio.timeout(REVIEW_SECONDS), self._slots:
                answer = await self._reviewer.create(
                    api.TOKEN_REVIEWS,
                    {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec},
                )
        except (ApiError, TimeoutError) as error:
            # The error's text is the API server's, which has seen the token: it goes no further.
            self._metrics.reviews.labels("failed").inc()
            raise BusyError("the API server can't be asked who the caller is", retry_after=2) from error
        account = _account(answer.get("status") or {})
        self._metrics.reviews.labels("proven" if account else "refused").inc()
        kept = PROVEN_SECONDS if account else REFUSED_SECONDS
        known = self._known[key] = _Known(account, min(self._now() + kept, expires_at))
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known

    def _answered(self, key: bytes, task: asyncio.Task[_Known]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # looked at, also if everybody who waited has gone


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise NotProvenError(f"a bearer token for the audience {package_client.AUDIENCE} is needed")
    if len(token) > _LONGEST_TOKEN:
        raise NotProvenError("the token is too long")
    return token


def _account(status: Mapping[str, Any]) -> str:
    """Namespace and name of the service account that a review has proven; "" if it has not."""
    user = str((status.get("user") or {}).get("username") or "")
    # An API server that knows nothing of audiences leaves them out: then nobody has checked them.
    if status.get("authenticated") is not True or package_client.AUDIENCE not in (status.get("audiences") or ()):
        return ""
    return user.removeprefix(_ACCOUNT).replace(":", "/") if user.startswith(_ACCOUNT) else ""
