"""Requests that end in another way than they should: each has its answer or its end, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from oneagent.operator import api
from oneagent.operator.package_server import handlers as servers
from tests.fakes import package_server as fakes
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.packages import VERSION
from tests.fakes.provisioner import eventually
from tests.unit.operator.package_server.conftest import http
from tests.unit.operator.package_server.test_limits import LARGE, URL, connect, idling


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[double.Tenant]:
    with double.Tenant() as server:
        server.release(VERSION, packages.build(tmp_path / "agent.zip", filler=LARGE))
        yield server


class OddReviews(fakes.Reviews):
    """An API server whose first answer no program expects."""

    failures = 1

    async def create(self, resource: api.Resource, obj: Mapping[str, Any], namespace: str = "") -> api.Object:
        if self.failures:
            self.failures -= 1
            raise TypeError(obj["spec"]["token"])
        return await super().create(resource, obj, namespace)


def pins(serving: fakes.RunningPackageServer) -> list[int]:
    return [each.pins for each in serving.endpoint._cache._stored.values()]


def test_an_unexpected_error_is_a_500_that_shows_nothing_and_the_next_request_is_answered(
    tmp_path: Path, tenant: double.Tenant
) -> None:
    with fakes.RunningPackageServer(tmp_path / "endpoint", reviewer=OddReviews()) as serving, http(serving) as client:
        serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
        answer = client.get(URL)
        assert (answer.status_code, answer.json()) == (500, {"error": {"code": 500, "message": "internal error"}})
        eventually(lambda: serving.counted("package_requests_total", outcome="error") == 1)
        assert client.get(URL).status_code == 200


def test_a_client_that_goes_away_while_it_waits_is_no_error_and_ends_no_download(
    tmp_path: Path, tenant: double.Tenant
) -> None:
    tenant.bytes_per_second = 8 << 20
    with fakes.RunningPackageServer(tmp_path / "endpoint") as serving, http(serving) as client:
        serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
        with connect(serving) as connection:
            request = f"GET {URL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {fakes.token()}\r\n\r\n"
            connection.sendall(request.encode())
            eventually(lambda: tenant.count("package"))
            assert serving.endpoint._handler.active == 1
        eventually(lambda: serving.endpoint._handler.active == 0)
        assert client.get(URL).status_code == 200
        assert tenant.count("package") == 1
        assert serving.counted("package_requests_total", outcome="error") == 0
        eventually(lambda: pins(serving) == [0])


def test_an_answer_that_breaks_is_cut_off_and_never_followed_by_another(tmp_path: Path, tenant: double.Tenant) -> None:
    with fakes.RunningPackageServer(tmp_path / "endpoint", limits=servers.RequestLimits(transfers=1)) as serving:
        serving.set_desired(fakes.desired_version(VERSION, tenant.api_url))
        with idling(serving) as connection:
            (stored,) = serving.directory.glob("*.zip")
            os.truncate(stored, 1)
            received = b""
            with contextlib.suppress(OSError):
                while block := connection.recv(1 << 20):
                    received += block
        assert len(received) < LARGE
        assert b"internal error" not in received
        eventually(lambda: serving.counted("package_requests_total", outcome="error"))
        eventually(lambda: serving.endpoint._handler.active == 0)
        assert set(pins(serving)) <= {0}
        with http(serving) as client:  # Its place is free, and the broken package is downloaded again.
            assert client.get(URL).status_code == 200
