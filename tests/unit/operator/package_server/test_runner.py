"""The package endpoint's certificate: who has read the namespace's Secret can verify it, in a change of the CA too."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from pathlib import Path
from typing import Any, cast

import httpx2 as httpx
import pytest
from prometheus_client import CollectorRegistry

from oneagent.common.http import server_tls
from oneagent.common.kubernetes.errors import UnavailableError
from oneagent.operator import api
from oneagent.operator.certificates import cluster_state, serving_cert, x509
from oneagent.operator.certificates.cluster_state import Milestone, Record
from oneagent.operator.certificates.controller import CertificateController, Metrics
from oneagent.operator.certificates.settings import CertificateSettings
from oneagent.operator.package_server import PackageMetrics, runner
from tests.fakes import certificates as fakes
from tests.fakes import packages, ports
from tests.fakes import tenant as double
from tests.fakes.certificates import AUTHORITY, MUTATING, Cluster, Replica
from tests.fakes.object_api import Objects
from tests.fakes.package_server import Reviews, token

DAY = 86400.0
HOST = f"oneagent-operator.{fakes.NAMESPACE}.svc"
CERTIFICATES = CertificateSettings(namespace=fakes.NAMESPACE, grace_seconds=30)
SECRET_SECONDS = 5.0
"""So long it may take until every namespace has a new bundle."""


class World:
    def __init__(self, tmp_path: Any) -> None:
        self.cluster = Cluster(1_750_000_000.0)
        self.settings = runner.RunnerSettings(
            fakes.NAMESPACE, "v1beta6", "oneagent-operator", AUTHORITY[1], tmp_path, 0, "", 0
        )
        self.certificates = self.endpoint()

    def endpoint(self) -> serving_cert.ServingCertificates:
        settings = self.settings
        return serving_cert.ServingCertificates(
            self.cluster, settings.namespace, settings.authority_secret, settings.hosts, self.cluster.clock
        )

    def current(self) -> x509.Certificate:
        return x509.read_certificate(fakes.run(self.certificates.current()).chain)

    def authority(self) -> x509.Pair:
        return x509.new_authority(self.cluster.now, 365 * DAY, 600)

    def write(self, current: x509.Pair, *former: x509.Pair, served: bool = False) -> None:
        """The CA's Secret."""
        mark = Milestone(current.certificate.fingerprint, self.cluster.now) if served else None
        record = Record((current.certificate,), current, tuple(pair.certificate for pair in former), served=mark)
        self.cluster.put(AUTHORITY, cluster_state.record_secret(record, CERTIFICATES, None))

    @property
    def bundle(self) -> bytes:
        """What namespaces get."""
        return x509.bundle(cluster_state.record(self.cluster.objects[AUTHORITY]).trusted)


@pytest.fixture
def world(tmp_path: Any) -> World:
    return World(tmp_path)


class TestAPair:
    def test_is_for_the_names_by_which_callers_come(self, world: World) -> None:
        world.write(world.authority())
        assert fakes.verifies(world.current(), world.bundle, HOST, world.cluster.now)

    def test_stays_until_two_thirds_of_its_life_are_over(self, world: World) -> None:
        world.write(world.authority())
        first = world.current()
        world.cluster.now += 4.6 * DAY
        assert world.current() == first
        world.cluster.now += 0.1 * DAY
        assert world.current() != first

    def test_stays_while_the_secret_can_not_be_read(self, world: World) -> None:
        world.write(world.authority())
        first = world.current()
        world.cluster.failing[AUTHORITY] = UnavailableError
        assert world.current() == first
        world.cluster.failing.clear()
        world.cluster.remove(AUTHORITY)
        assert world.current() == first

    def test_can_not_be_had_without_a_ca(self, world: World) -> None:
        with pytest.raises(server_tls.UnusableCertificateError, match="CA certificate not available: does not exist"):
            world.current()
        world.cluster.failing[AUTHORITY] = UnavailableError
        with pytest.raises(server_tls.UnusableCertificateError, match="CA certificate not available: not now"):
            world.current()


class TestAPairOfTheFormerCA:
    @pytest.fixture
    def old(self, world: World) -> x509.Pair:
        old = world.authority()
        world.write(old)
        assert world.current().signed_by(old.certificate)
        return old

    def test_is_served_until_the_new_ones_is_served_by_the_webhook(self, world: World, old: x509.Pair) -> None:
        new = world.authority()
        world.write(new, old)
        assert world.current().signed_by(old.certificate)
        world.write(new, old, served=True)
        assert world.current().signed_by(new.certificate)
        world.write(new, old)
        assert world.current().signed_by(new.certificate)

    def test_is_not_served_once_that_is_no_longer_trusted(self, world: World, old: x509.Pair) -> None:
        new = world.authority()
        world.write(new)
        assert world.current().signed_by(new.certificate)

    def test_is_not_served_to_its_end(self, world: World, old: x509.Pair) -> None:
        new = world.authority()
        world.write(new, old)
        world.cluster.now += 7 * DAY - 601
        assert world.current().signed_by(old.certificate)
        world.cluster.now += 2
        assert world.current().signed_by(new.certificate)


def test_in_a_rotation_every_bundle_that_namespaces_may_have_verifies_it(world: World) -> None:
    cluster, replica = world.cluster, Replica()
    cluster.put(MUTATING, fakes.configuration(MUTATING[0]))
    controller = CertificateController(
        cluster, CERTIFICATES, fakes.serving([replica]), metrics=Metrics(CollectorRegistry()), clock=cluster.clock
    )
    seen: list[tuple[float, bytes]] = []
    issuers = set[bytes]()

    def pass_time(seconds: float) -> None:
        cluster.now += seconds
        fakes.run(controller.reconcile())
        replica.reload(cluster)
        if not seen or seen[-1][1] != world.bundle:
            seen.append((cluster.now, world.bundle))
        certificate = world.current()
        before = [bundle for since, bundle in seen if since <= cluster.now - SECRET_SECONDS][-1:]
        lately = [bundle for since, bundle in seen if since > cluster.now - SECRET_SECONDS]
        assert all(fakes.verifies(certificate, bundle, HOST, cluster.now) for bundle in (*before, *lately))
        issuers.add(certificate.x509.issuer.public_bytes())

    for seconds in (0, *([4 * DAY] * 61), *([1] * 100)):
        pass_time(seconds)
    assert len(issuers) == 2
    assert not cluster_state.record(cluster.objects[AUTHORITY]).former


def test_an_error_that_nobody_has_expected_ends_neither_the_server_nor_the_packages_of_others(tmp_path: Path) -> None:
    archive = packages.build(tmp_path / "agent.zip")
    with double.Tenant() as tenant:
        tenant.release(packages.VERSION, archive)
        asyncio.run(_list_with_errors(tenant, tmp_path / "kept"))


async def _list_with_errors(tenant: double.Tenant, folder: Path) -> None:
    cluster, port = Clusters(), ports.free()
    settings = runner.RunnerSettings(
        fakes.NAMESPACE, "v1beta6", "here", AUTHORITY[1], folder, 1 << 30, "127.0.0.1", port
    )
    cluster.want(tenant, packages.VERSION)
    cluster.put("DynaKube", {"metadata": {"name": "a", "namespace": fakes.NAMESPACE}, "spec": 7, "status": [7]})
    errors = [TypeError("of a list"), UnavailableError("of a list")]

    def fail(verb: str, _kind: str, _name: str) -> None:
        if verb == "list" and errors:
            raise errors.pop()

    cluster.before = fail
    served = runner.PackageServerRunner(cast("api.Api", cluster), settings, PackageMetrics(CollectorRegistry()))
    running = asyncio.create_task(served.run())
    url = f"https://127.0.0.1:{port}/v1/packages/demo/{packages.VERSION}?arch=x86_64"
    status = 0
    async with asyncio.timeout(20), httpx.AsyncClient(verify=False, trust_env=False) as client:
        while status != 200:
            assert not running.done()
            with contextlib.suppress(httpx.TransportError):
                status = (await client.get(url, headers={"Authorization": f"Bearer {token()}"})).status_code
            await asyncio.sleep(0.05)
    assert not errors
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Clusters(Objects):
    """An API server with a CA, a DynaKube, and service accounts with good tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.create = Reviews().create
        authority = x509.new_authority(time.time(), DAY, 600)
        self.put("Secret", cluster_state.record_secret(Record((authority.certificate,), authority), CERTIFICATES, None))

    def want(self, tenant: double.Tenant, version: str) -> None:
        metadata = {"name": "demo", "namespace": fakes.NAMESPACE}
        token = base64.b64encode(tenant.token.encode()).decode()
        self.put("Secret", {"metadata": metadata, "data": {"apiToken": token}})
        spec = {"apiUrl": tenant.api_url, "oneAgent": {"applicationMonitoring": {}}}
        self.put("DynaKube", {"metadata": metadata, "spec": spec, "status": {"codeModules": {"version": version}}})


def test_who_asks_before_a_version_is_known_to_be_wanted_need_not_wait_for_the_next_list(tmp_path: Path) -> None:
    archive = packages.build(tmp_path / "agent.zip")
    with double.Tenant() as tenant:
        tenant.release(packages.VERSION, archive)
        asyncio.run(_ask_early(tenant, tmp_path / "kept"))


async def _ask_early(tenant: double.Tenant, folder: Path) -> None:
    cluster, port = Clusters(), ports.free()
    settings = runner.RunnerSettings(
        fakes.NAMESPACE, "v1beta6", "here", AUTHORITY[1], folder, 1 << 30, "127.0.0.1", port
    )
    served = runner.PackageServerRunner(cast("api.Api", cluster), settings, PackageMetrics(CollectorRegistry()))
    listed = asyncio.Event()
    cluster.before = lambda verb, kind, name: listed.set() if verb == "list" else None
    running = asyncio.create_task(served.run())
    url = f"https://127.0.0.1:{port}/v1/packages/demo/{packages.VERSION}?arch=x86_64"
    async with asyncio.timeout(10), httpx.AsyncClient(verify=False, trust_env=False) as client:
        await listed.wait()
        cluster.want(tenant, packages.VERSION)
        answers = [await client.get(url, headers={"Authorization": f"Bearer {token()}"})]
        while answers[-1].status_code == 404:
            await asyncio.sleep(0.05)
            answers.append(await client.get(url, headers={"Authorization": f"Bearer {token()}"}))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert answers[0].status_code == 404
    assert answers[-1].status_code == 200
