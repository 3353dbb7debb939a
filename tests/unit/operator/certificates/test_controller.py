"""The certificate controller in the situations that an administrator may meet."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from oneagent.common.dynakube.api import crd
from oneagent.common.kubernetes.errors import ForbiddenError, UnavailableError
from oneagent.operator.certificates import cluster_state, x509
from oneagent.operator.certificates.controller import CertificateController, Metrics
from oneagent.operator.certificates.settings import CertificateSettings
from tests.fakes import certificates as fakes
from tests.fakes.certificates import AUTHORITY, CERTS, DEFINITION, MUTATING, VALIDATING, Cluster, Replica

DAY = 86400.0
START = 1_750_000_000.0
SETTINGS = CertificateSettings(namespace=fakes.NAMESPACE)
TARGETS = (MUTATING, VALIDATING, DEFINITION)


class World:
    """A cluster with everything installed, one replica that reloads on request, and a controller."""

    def __init__(self, settings: CertificateSettings = SETTINGS) -> None:
        self.cluster = Cluster(START)
        self.replica = Replica()
        self.events: list[str] = []
        self.probes = 0
        self.registry = CollectorRegistry()
        self.cluster.put(MUTATING, fakes.configuration(MUTATING[0], "pods", "namespaces"))
        self.cluster.put(VALIDATING, fakes.configuration(VALIDATING[0]))
        self.cluster.put(DEFINITION, fakes.definition())
        self.controller = CertificateController(
            self.cluster,
            settings,
            self._probe,
            metrics=Metrics(self.registry),
            on_change=lambda reason, message: self.events.append(reason),
            clock=self.cluster.clock,
        )

    def reconcile(self) -> float:
        return fakes.run(self.controller.reconcile())

    def converge(self) -> None:
        self.reconcile()
        self.replica.reload(self.cluster)
        self.reconcile()

    def wait(self, seconds: float) -> float:
        self.cluster.now += seconds
        return self.reconcile()

    @property
    def record(self) -> cluster_state.Record:
        return cluster_state.record(self.cluster.objects[AUTHORITY])

    @property
    def served(self) -> cluster_state.Served:
        return cluster_state.served(self.cluster.objects[CERTS])

    def bundle(self) -> bytes:
        """The one that is published everywhere."""
        (bundle,) = {bundle for target in TARGETS for bundle in self.cluster.bundles(target)}
        return bundle

    async def _probe(self, fingerprint: bytes) -> bool:
        self.probes += 1
        return await fakes.serving([self.replica])(fingerprint)


@pytest.fixture
def world() -> World:
    world = World()
    world.converge()
    return world


def test_a_new_cluster_gets_everything_in_one_round_but_the_conversion() -> None:
    world = World()
    assert world.reconcile() <= SETTINGS.longest_retry_seconds
    assert world.events == [
        "WebhookAuthorityMade",
        "WebhookBundlePublished",
        "WebhookBundlePublished",
        "WebhookCertificateIssued",
    ]
    assert world.served.bundle == world.record.current[0].pem
    assert world.cluster.objects[CERTS]["type"] == "kubernetes.io/tls"
    assert world.cluster.objects[DEFINITION]["spec"]["conversion"] == {"strategy": "None"}


def test_the_crd_is_converted_by_the_webhook_once_it_answers() -> None:
    world = World()
    world.converge()
    assert world.cluster.objects[DEFINITION]["spec"] == {
        **fakes.definition()["spec"],
        "conversion": {
            "strategy": "Webhook",
            "webhook": {
                "clientConfig": {
                    "service": {"name": fakes.SERVICE, "namespace": fakes.NAMESPACE, "path": "/convert", "port": 443},
                    "caBundle": b64encode(world.bundle()).decode(),
                },
                "conversionReviewVersions": ["v1"],
            },
        },
    }


def test_the_crd_as_it_is_shipped_only_lacks_the_bundle_and_gets_it_before_the_webhook_answers() -> None:
    world = World()
    shipped = crd.manifest(crd.service(fakes.NAMESPACE, fakes.SERVICE, "/convert"))
    world.cluster.put(DEFINITION, shipped)
    world.reconcile()
    conversion = world.cluster.objects[DEFINITION]["spec"]["conversion"]
    expected = crd.service(fakes.NAMESPACE, fakes.SERVICE, "/convert", b64encode(world.bundle()).decode())
    assert conversion == {
        **shipped["spec"]["conversion"],
        "webhook": {**shipped["spec"]["conversion"]["webhook"], "clientConfig": expected},
    }
    world.converge()
    assert "ConversionSet" not in world.events


def test_nothing_is_written_or_probed_while_nothing_is_due(world: World) -> None:
    world.cluster.writes.clear()
    world.probes = 0
    for _ in range(20):
        assert world.wait(300) == SETTINGS.check_seconds
    assert world.cluster.writes == []
    assert world.probes == 0
    assert world.cluster.reads / 22 < 20


def test_a_certificate_is_renewed_at_two_thirds_of_its_life_by_the_same_authority(world: World) -> None:
    before, authority = world.served.certificate, world.record.current
    world.wait(7 * DAY * 2 / 3 - 1)
    assert world.served.certificate == before
    world.wait(2)
    assert world.served.certificate != before
    assert world.record.current == authority
    assert world.events[-1] == "WebhookCertificateIssued"


def test_a_new_authority_is_published_before_it_issues_and_the_former_one_goes_last(world: World) -> None:
    before = world.record.current[0]
    while not world.record.former:
        world.replica.reload(world.cluster)
        world.wait(DAY)
    assert world.cluster.now - START == pytest.approx(365 * DAY * 2 / 3, abs=DAY)
    new = world.record.current[0]
    assert world.bundle() == new.pem + before.pem
    assert world.served.bundle == world.bundle()
    certificate = world.served.certificate
    assert certificate
    assert certificate.signed_by(before)

    pause = world.reconcile()
    assert 0 < pause <= SETTINGS.settle_seconds
    world.wait(pause + 0.01)
    certificate = world.served.certificate
    assert certificate
    assert certificate.signed_by(new)

    for _ in range(10):
        world.wait(SETTINGS.grace_seconds)
        assert world.bundle() == new.pem + before.pem, "the replica serves the former CA's certificate"
    world.replica.reload(world.cluster)
    world.wait(SETTINGS.longest_retry_seconds)
    assert world.bundle() == new.pem + before.pem
    world.wait(SETTINGS.grace_seconds)
    assert world.bundle() == new.pem
    assert world.events[-4:].count("WebhookAuthorityRetired") == 1


def test_a_bundle_that_somebody_changes_is_put_right_and_nothing_else_is_touched(world: World) -> None:
    bundle = world.bundle()
    configuration = world.cluster.objects[MUTATING]
    configuration["webhooks"][0]["clientConfig"]["caBundle"] = ""
    configuration["webhooks"][1] |= {"timeoutSeconds": 3, "unknown": {"to": "us"}}
    foreign = {"name": "foreign", "clientConfig": {"url": "https://example.com", "caBundle": "Zm9yZWlnbg=="}}
    configuration["webhooks"].append(foreign)
    world.cluster.put(MUTATING, configuration)
    world.reconcile()
    webhooks = world.cluster.objects[MUTATING]["webhooks"]
    assert [b64decode(webhook["clientConfig"]["caBundle"]) for webhook in webhooks] == [bundle, bundle, b"foreign"]
    assert webhooks[1]["timeoutSeconds"] == 3
    assert webhooks[1]["unknown"] == {"to": "us"}
    assert webhooks[2] == foreign


def test_a_conversion_that_somebody_removes_is_put_right(world: World) -> None:
    after = world.cluster.objects[DEFINITION]["spec"]
    world.cluster.put(DEFINITION, fakes.definition())
    world.reconcile()
    assert world.cluster.objects[DEFINITION]["spec"] == after


def test_configurations_that_are_not_there_are_no_error_and_get_the_bundle_when_they_come() -> None:
    world = World()
    for target in TARGETS:
        world.cluster.remove(target)
    world.converge()
    assert world.reconcile() == SETTINGS.check_seconds
    world.cluster.put(VALIDATING, fakes.configuration(VALIDATING[0]))
    world.reconcile()
    assert world.cluster.bundles(VALIDATING) == {world.record.current[0].pem}


def test_a_target_that_is_forbidden_keeps_no_other_from_its_bundle() -> None:
    world = World()
    world.cluster.failing[MUTATING] = ForbiddenError
    assert world.reconcile() <= SETTINGS.longest_retry_seconds
    assert world.cluster.bundles(VALIDATING) == {world.record.current[0].pem}
    assert not world.served.problem


def test_an_api_server_that_is_away_is_asked_again_ever_more_slowly() -> None:
    world = World()
    world.cluster.failing[CERTS] = UnavailableError
    pauses = [world.reconcile() for _ in range(7)]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, [1, 2, 4, 8, 16, 30, 30], strict=True))
    world.cluster.failing.clear()
    world.converge()
    assert world.reconcile() == SETTINGS.check_seconds


OTHER = x509.new_authority(START, 365 * DAY, 600)
FOREIGN = x509.issue(OTHER, SETTINGS.hosts, START, 7 * DAY, 600)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tls.crt": b""},
        {"tls.key": b"garbage"},
        {"tls.crt": b"-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n"},
        {"tls.key": OTHER.key_pem},
        {"tls.crt": FOREIGN.certificate.pem, "tls.key": FOREIGN.key_pem},
        {"tls.crt": FOREIGN.certificate.pem + OTHER.certificate.pem, "tls.key": FOREIGN.key_pem, "ca.crt": b"\xff"},
    ],
    ids=["nothing", "empty", "garbage-key", "garbage-certificate", "other-key", "other-issuer", "other-chain"],
)
def test_whatever_is_in_the_secret_is_replaced_if_it_cannot_be_used(world: World, data: dict[str, bytes]) -> None:
    secret = world.cluster.objects[CERTS]
    encoded = {key: b64encode(value).decode() for key, value in data.items()}
    world.cluster.put(CERTS, {**secret, "data": {**secret["data"], **encoded} if data else {}})
    world.reconcile()
    assert not world.served.problem
    certificate = world.served.certificate
    assert certificate
    assert certificate.signed_by(world.record.current[0])
    assert world.served.bundle == world.bundle()


@pytest.mark.parametrize(
    ("made", "hosts"),
    [(-8 * DAY, SETTINGS.hosts), (DAY, SETTINGS.hosts), (0.0, SETTINGS.hosts[:2]), (0.0, ("other",))],
    ids=["expired", "of-tomorrow", "a-name-missing", "other-name"],
)
def test_a_certificate_of_ours_that_clients_refuse_is_replaced(made: float, hosts: tuple[str, ...]) -> None:
    world = World()
    authority = x509.new_authority(START - 30 * DAY, 365 * DAY, 600)
    pair = x509.issue(authority, hosts, START + made, 7 * DAY, 600)
    record = cluster_state.Record((authority.certificate,), authority)
    world.cluster.put(AUTHORITY, cluster_state.record_secret(record, SETTINGS, None))
    world.cluster.put(CERTS, cluster_state.served_secret(authority.certificate.pem, pair, SETTINGS, None))
    world.reconcile()
    certificate = world.served.certificate
    assert certificate
    assert certificate != pair.certificate
    assert fakes.verifies(certificate, world.cluster.bundles(VALIDATING).pop(), SETTINGS.hosts[1], START)
    assert world.record.current == (authority.certificate,)


@pytest.mark.parametrize("key", [AUTHORITY, CERTS])
@pytest.mark.parametrize("change", [{"immutable": True}, {"type": "example.com/other"}], ids=["immutable", "type"])
def test_a_secret_that_takes_no_change_is_made_again(world: World, key: fakes.Key, change: Mapping[str, Any]) -> None:
    secret = {**world.cluster.objects[key], **change, "data": {}}
    world.cluster.put(key, secret)
    world.wait(SETTINGS.settle_seconds)
    world.wait(SETTINGS.settle_seconds)
    assert world.record.authority
    assert not world.served.problem
    assert "immutable" not in world.cluster.objects[key]


def test_what_others_keep_in_the_secrets_stays(world: World) -> None:
    secret = world.cluster.objects[CERTS]
    metadata = {**secret["metadata"], "labels": {"team": "a"}, "annotations": {"note": "b"}}
    world.cluster.put(
        CERTS, {**secret, "metadata": metadata, "data": {**secret["data"], "more": "YQ==", "tls.crt": ""}}
    )
    world.reconcile()
    after = world.cluster.objects[CERTS]
    assert after["data"]["more"] == "YQ=="
    assert after["metadata"]["labels"]["team"] == "a"
    assert after["metadata"]["annotations"] == {"note": "b"}


def test_the_key_of_the_authority_is_only_in_its_own_secret(world: World) -> None:
    assert set(world.cluster.objects[CERTS]["data"]) == {"tls.crt", "tls.key", "ca.crt"}
    assert set(world.cluster.objects[AUTHORITY]["data"]) == {"ca.crt", "ca.key"}


def test_the_metric_has_the_end_of_each_certificate(world: World) -> None:
    def left(name: str) -> float:
        metric = "oneagent_operator_certificate_expiration_timestamp_seconds"
        return (world.registry.get_sample_value(metric, {"certificate": name}) or 0) - world.cluster.now

    assert left("server") == pytest.approx(7 * DAY)
    assert left("ca") == pytest.approx(365 * DAY)


def test_an_error_of_the_probe_is_no_answer() -> None:
    async def failing(fingerprint: bytes) -> bool:
        raise ForbiddenError("no endpoints for you")

    world = World()
    controller = CertificateController(world.cluster, SETTINGS, failing, metrics=Metrics(CollectorRegistry()))
    assert fakes.run(controller.reconcile()) <= SETTINGS.longest_retry_seconds
    assert world.cluster.objects[DEFINITION]["spec"]["conversion"] == {"strategy": "None"}


# With cert-manager.


def put_certificate(world: World, authority: x509.Pair, annotated: bool = True) -> None:
    """As cert-manager does."""
    pair = x509.issue(authority, SETTINGS.hosts, world.cluster.now, 90 * DAY, 600)
    secret = cluster_state.served_secret(authority.certificate.pem, pair, SETTINGS, None)
    if annotated:
        secret["metadata"]["annotations"] = {cluster_state.CERT_MANAGER: "oneagent-webhook"}
    world.cluster.put(CERTS, secret)


@pytest.mark.parametrize("chosen", ["by the annotation", "by the setting"])
def test_of_cert_manager_the_bundle_is_published_and_nothing_is_issued(chosen: str) -> None:
    by_setting = chosen == "by the setting"
    world = World(CertificateSettings(namespace=fakes.NAMESPACE, issuer="cert-manager") if by_setting else SETTINGS)
    put_certificate(world, OTHER, annotated=not by_setting)
    before = world.cluster.objects[CERTS]
    world.converge()
    assert world.bundle() == OTHER.certificate.pem
    assert world.cluster.objects[CERTS] == before
    assert set(world.cluster.objects[AUTHORITY]["data"]) == {"ca.crt"}
    assert world.events[0] == "WebhookAuthorityAdopted"


def test_until_cert_manager_has_made_the_secret_nothing_is_made() -> None:
    world = World(CertificateSettings(namespace=fakes.NAMESPACE, issuer="cert-manager"))
    assert world.reconcile() <= SETTINGS.longest_retry_seconds
    assert world.cluster.writes == []


def test_of_cert_manager_too_the_former_authority_is_trusted_until_the_new_one_is_served() -> None:
    world = World()
    put_certificate(world, OTHER)
    world.converge()
    new = x509.new_authority(START, 365 * DAY, 600)
    put_certificate(world, new)
    world.wait(60)
    assert world.bundle() == new.certificate.pem + OTHER.certificate.pem
    world.wait(SETTINGS.grace_seconds)
    assert world.bundle() == new.certificate.pem + OTHER.certificate.pem
    world.replica.reload(world.cluster)
    world.wait(60)
    world.wait(SETTINGS.grace_seconds)
    assert world.bundle() == new.certificate.pem


def test_a_configuration_whose_bundle_cert_manager_injects_is_left_alone() -> None:
    world = World()
    put_certificate(world, OTHER)
    for key in (VALIDATING, DEFINITION):
        manifest = world.cluster.objects[key]
        manifest["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": "dynatrace/oneagent-webhook"}
        world.cluster.put(key, manifest)
    world.converge()
    assert world.cluster.bundles(MUTATING) == {OTHER.certificate.pem}
    assert "caBundle" not in world.cluster.objects[VALIDATING]["webhooks"][0]["clientConfig"]
    conversion = world.cluster.objects[DEFINITION]["spec"]["conversion"]
    assert conversion["strategy"] == "Webhook"
    assert "caBundle" not in conversion["webhook"]["clientConfig"]


def test_a_cluster_changes_over_to_cert_manager_without_losing_trust(world: World) -> None:
    own = world.record.current[0]
    put_certificate(world, OTHER)
    world.reconcile()
    assert world.bundle() == OTHER.certificate.pem + own.pem
    assert "ca.key" not in world.cluster.objects[AUTHORITY]["data"]
