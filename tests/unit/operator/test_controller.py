"""How the operator begins."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from prometheus_client import CollectorRegistry

from oneagent.common.kubernetes.errors import UnavailableError
from oneagent.operator import api
from oneagent.operator.certificates.controller import Metrics
from oneagent.operator.certificates.settings import CertificateSettings as Certificates
from oneagent.operator.controller import Controller, ControllerSettings
from tests.fakes.object_api import Objects


class Upgraded(Objects):
    """A cluster whose DynaKubes are stored in an old version, which nobody converts yet."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = 0
        self.done = asyncio.Event()
        self.before = self._answer

    async def create(self, resource: api.Resource, manifest: Mapping[str, Any], namespace: str = "") -> api.Object:
        return self.put(resource.kind, manifest)

    def _answer(self, verb: str, kind: str, _name: str) -> None:
        if (verb, kind) == ("list", "DynaKube"):
            self.lists += 1
            if self.lists > 1 and ("Secret", "dynatrace", "oneagent-webhook-certs") in self.stored:
                self.done.set()
            raise UnavailableError("500: conversion webhook for dynatrace.com/v1beta5, Kind=DynaKube failed")


def test_the_webhook_gets_its_certificate_while_dynakubes_can_not_be_read_without_the_webhook() -> None:
    asyncio.run(_begin())


async def _begin() -> None:
    cluster = Upgraded()
    settings = ControllerSettings("dynatrace", "v1beta6", "", "1", Certificates(namespace="dynatrace"))
    controller = Controller(cast("api.Api", cluster), settings, Metrics(CollectorRegistry()))
    async with asyncio.timeout(10):
        working = asyncio.create_task(controller.run())
        done = asyncio.create_task(cluster.done.wait())
        await asyncio.wait((working, done), return_when=asyncio.FIRST_COMPLETED)
        assert not working.done(), working.exception()
        assert "conversion webhook" in controller.problem
        for task in (working, done):
            task.cancel()
        await asyncio.gather(working, done, return_exceptions=True)
