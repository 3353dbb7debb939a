"""The operator is not ready before the webhook's Service lets connections through, but does not wait for ever."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Callable
from typing import Any

from oneagent.common.kubernetes.errors import UnavailableError
from oneagent.operator import api
from oneagent.operator.certificates.reachability import WebhookReachability
from oneagent.operator.certificates.settings import CertificateSettings
from tests.fakes import ports

SETTINGS = CertificateSettings(namespace="dynatrace")


class Services:
    """An API server with the webhook's Service, whose address is of this machine."""

    def __init__(self, address: str | None = "127.0.0.1") -> None:
        self.address = address
        self.failures = 0
        self.asked = asyncio.Event()

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None:
        assert (resource.plural, name, namespace) == ("services", "oneagent-webhook", "dynatrace")
        self.asked.set()
        if self.failures:
            self.failures -= 1
            raise UnavailableError("503")
        return {"spec": {"clusterIP": self.address}} if self.address is not None else None


def reachability(
    services: Services, port: int = 1, is_settled: Callable[[], bool] = lambda: True, seconds: float = 30
) -> WebhookReachability:
    return WebhookReachability(services, dataclasses.replace(SETTINGS, port=port), is_settled, seconds)


async def ended(waiting: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(20):
        await waiting


def test_it_is_not_ready_while_connections_are_refused_and_ready_with_the_first_that_is_not() -> None:
    async def test() -> None:
        port, services = ports.free(), Services()
        found = reachability(services, port)
        waiting = asyncio.create_task(found.run())
        for _ in range(2):
            services.asked.clear()
            await services.asked.wait()
        assert found.problem == "the webhook has not been reached yet"
        with socket.create_server(("127.0.0.1", port)):
            await ended(waiting)
        assert found.problem == ""

    asyncio.run(test())


def test_it_is_not_ready_before_the_certificate_and_the_conversion_are_in_place() -> None:
    async def test() -> None:
        settled = [False]
        services = Services()
        with socket.create_server(("127.0.0.1", 0)) as webhook:
            found = reachability(services, webhook.getsockname()[1], lambda: settled[0])
            waiting = asyncio.create_task(found.run())
            for _ in range(2):
                services.asked.clear()
                await services.asked.wait()
            assert found.problem
            settled[0] = True
            await ended(waiting)
        assert found.problem == ""

    asyncio.run(test())


def test_an_api_server_in_trouble_is_asked_again() -> None:
    async def test() -> None:
        services = Services()
        services.failures = 2
        with socket.create_server(("127.0.0.1", 0)) as webhook:
            await ended(asyncio.create_task(reachability(services, webhook.getsockname()[1]).run()))
        assert services.failures == 0

    asyncio.run(test())


def test_without_a_webhook_or_an_address_there_is_nothing_to_wait_for() -> None:
    async def test() -> None:
        for address in (None, "None", ""):
            found = reachability(Services(address))
            await ended(asyncio.create_task(found.run()))
            assert found.problem == ""

    asyncio.run(test())


def test_a_webhook_that_stays_away_is_not_waited_for_for_ever() -> None:
    async def test() -> None:
        found = reachability(Services(), ports.free(), seconds=0.3)
        await ended(asyncio.create_task(found.run()))
        assert found.problem == ""

    asyncio.run(test())
