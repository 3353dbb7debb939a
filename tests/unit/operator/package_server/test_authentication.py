"""Who may fetch packages: service accounts with a token for this and nothing else, as long as it is good."""

from __future__ import annotations

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import prometheus_client
import pytest

from oneagent.operator.package_server import authentication
from oneagent.operator.package_server.metrics import PackageMetrics
from tests.fakes import hostile_documents
from tests.fakes import package_server as fakes
from tests.fakes import tenant as double
from tests.fakes.packages import VERSION
from tests.unit.operator.package_server.conftest import http

URL = f"/v1/packages/demo/{VERSION}?arch=x86_64"


def asked_with(client: httpx.Client, token: str) -> httpx.Response:
    return client.get(URL, headers={"Authorization": f"Bearer {token}"})


class TestACaller:
    def test_is_asked_about_once_a_minute(self, client: httpx.Client, serving: fakes.RunningPackageServer) -> None:
        for _ in range(5):
            assert client.get(URL).status_code == 200
        assert len(serving.reviews.tokens) == 1
        serving.elapsed = lambda: time.monotonic() + authentication.ACCEPTED_SECONDS + 1
        assert client.get(URL).status_code == 200
        assert len(serving.reviews.tokens) == 2

    def test_is_asked_about_once_however_many_requests_come_together(
        self, client: httpx.Client, serving: fakes.RunningPackageServer
    ) -> None:
        serving.reviews.seconds = 0.3
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: client.get(URL).status_code, range(8)))
        assert (answers, len(serving.reviews.tokens)) == ([200] * 8, 1)

    def test_whose_account_is_deleted_is_refused_a_minute_later(
        self, client: httpx.Client, serving: fakes.RunningPackageServer
    ) -> None:
        assert client.get(URL).status_code == 200
        serving.reviews.deleted.add(fakes.ACCOUNT)
        serving.elapsed = lambda: time.monotonic() + authentication.ACCEPTED_SECONDS + 1
        answer = client.get(URL)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")

    def test_is_asked_about_again_although_the_wall_clock_was_set_back(
        self, client: httpx.Client, serving: fakes.RunningPackageServer
    ) -> None:
        assert client.get(URL).status_code == 200
        serving.reviews.deleted.add(fakes.ACCOUNT)
        serving.now = lambda: time.time() - 3600
        serving.elapsed = lambda: time.monotonic() + authentication.ACCEPTED_SECONDS + 1
        assert client.get(URL).status_code == 401

    def test_is_let_in_soon_after_a_refusal_that_no_longer_holds(
        self, client: httpx.Client, serving: fakes.RunningPackageServer
    ) -> None:
        serving.reviews.deleted.add(fakes.ACCOUNT)
        assert client.get(URL).status_code == 401
        serving.reviews.deleted.clear()
        assert client.get(URL).status_code == 401
        serving.elapsed = lambda: time.monotonic() + authentication.REFUSED_SECONDS + 1
        assert client.get(URL).status_code == 200

    def test_hears_503_while_the_api_server_is_away_and_nothing_of_its_error(
        self, client: httpx.Client, serving: fakes.RunningPackageServer
    ) -> None:
        serving.reviews.unavailable = True
        answer = client.get(URL)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert fakes.token()[:20] not in answer.text
        serving.reviews.unavailable = False
        assert client.get(URL).status_code == 200


class TestAToken:
    def test_is_refused_once_it_has_expired_though_it_was_proven_a_moment_ago(
        self, client: httpx.Client, serving: fakes.RunningPackageServer
    ) -> None:
        token = fakes.token(seconds=30)
        assert asked_with(client, token).status_code == 200
        serving.now = lambda: time.time() + 31
        answer = asked_with(client, token)
        assert (answer.status_code, "expired" in answer.text) == (401, True)
        assert len(serving.reviews.tokens) == 1

    @pytest.mark.parametrize(
        "token",
        [
            "x",
            "dt0c01.DOUBLE.SECRET",
            "a.b.c",
            "a.b.c.d",
            "é.é.é",
            "x" * 8001,
            fakes.token("https://kubernetes.default.svc"),
            fakes.token(seconds=-1),
            fakes.token(exp=None),
            fakes.token(exp="soon"),
            fakes.token(aud=None),
            fakes.token().replace(".", "!"),
        ],
    )
    def test_that_is_plainly_none_is_refused_without_asking(
        self, client: httpx.Client, serving: fakes.RunningPackageServer, token: str
    ) -> None:
        answer = client.get(URL, headers=[(b"Authorization", b"Bearer " + token.encode())])
        assert answer.status_code == 401
        assert serving.reviews.tokens == []

    @pytest.mark.parametrize(
        "claims", [*hostile_documents.ALL.values(), b"[" * 5000], ids=[*hostile_documents.ALL, "a short depth"]
    )
    def test_that_has_hostile_claims_is_refused_without_asking(
        self, client: httpx.Client, serving: fakes.RunningPackageServer, claims: bytes
    ) -> None:
        payload = base64.urlsafe_b64encode(claims[:5000]).rstrip(b"=")
        answer = client.get(URL, headers=[(b"Authorization", b"Bearer e30." + payload + b".c2ln")])
        assert answer.status_code == 401
        assert serving.reviews.tokens == []

    @pytest.mark.parametrize("header", ["", "Basic eDp5", "Bearer"])
    def test_that_is_not_there_is_missed(self, serving: fakes.RunningPackageServer, header: str) -> None:
        with http(serving) as client:
            client.headers.pop("Authorization")
            answer = client.get(URL, headers={"Authorization": header} if header else {})
        assert (answer.status_code, "bearer token" in answer.text) == (401, True)

    @pytest.mark.parametrize(
        "change",
        [
            {"authenticated": False},
            {"authenticated": "true"},
            {"audiences": ["other"]},
            {"audiences": None},
            {"user": {"username": "admin"}},
            {"user": {"username": "system:node:n1"}},
            {"user": None},
        ],
        ids=str,
    )
    def test_that_the_api_server_does_not_vouch_for_is_refused(
        self, client: httpx.Client, serving: fakes.RunningPackageServer, server: double.Tenant, change: dict[str, Any]
    ) -> None:
        serving.reviews.answer = lambda status: status | change
        assert client.get(URL).status_code == 401
        assert server.count("package") == 0

    def test_tells_nothing_of_what_is_wanted_unless_it_is_good(
        self, client: httpx.Client, serving: fakes.RunningPackageServer
    ) -> None:
        bad = fakes.token("other")
        known, unknown = (client.get(url, headers={"Authorization": f"Bearer {bad}"}).text for url in (URL, "/nothing"))
        assert known == unknown


def test_tokens_are_remembered_in_a_bounded_number() -> None:
    async def many() -> None:
        reviews = fakes.Reviews()
        known = authentication.Authenticator(reviews, PackageMetrics(prometheus_client.CollectorRegistry()))
        tokens = [fakes.token(jti=number) for number in range(authentication.MAX_CACHED + 10)]
        for token in tokens:
            assert await known.authenticate(f"Bearer {token}") == fakes.ACCOUNT
        assert len(known._cache) == authentication.MAX_CACHED
        await known.authenticate(f"Bearer {tokens[-1]}")
        await known.authenticate(f"Bearer {tokens[0]}")
        assert len(reviews.tokens) == len(tokens) + 1

    asyncio.run(many())
