"""The CAs of the package server for nodes, in a ConfigMap."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

import pytest

from oneagent.common.kubernetes.errors import ForbiddenError
from oneagent.operator.certificates import ca_bundle, x509
from tests.fakes.object_api import Objects

NAMESPACE = "dynatrace"
SECRET = "oneagent-webhook-ca"
DAY = 86400.0


class Harness:
    def __init__(self) -> None:
        self.server = Objects()
        self.server.put("ConfigMap", {"metadata": {"name": ca_bundle.NAME, "namespace": NAMESPACE}})
        self.publisher = ca_bundle.BundlePublisher(self.server, NAMESPACE, SECRET)

    def issue(self, *former: x509.Pair) -> x509.Pair:
        """The CA's Secret with a new CA, and those before it."""
        pair = x509.new_authority(1.0, DAY, 0.0)
        data = {
            "ca.crt": pair.certificate.pem,
            "ca.key": pair.key_pem,
            "ca.crt.old": x509.bundle(one.certificate for one in former),
        }
        encoded = {key: b64encode(pem).decode() for key, pem in data.items()}
        self.server.put("Secret", {"metadata": {"name": SECRET, "namespace": NAMESPACE}, "data": encoded})
        return pair

    def reconcile(self) -> float:
        return asyncio.run(self.publisher.reconcile())

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.server.stored["ConfigMap", NAMESPACE, ca_bundle.NAME].get("data") or {}
        return data


@pytest.fixture
def cluster() -> Harness:
    return Harness()


def test_it_has_the_trusted_authorities_and_no_key(cluster: Harness) -> None:
    former = cluster.issue()
    cluster.reconcile()
    assert cluster.data == {"ca.crt": x509.bundle([former.certificate]).decode()}
    current = cluster.issue(former)
    cluster.reconcile()
    assert cluster.data == {"ca.crt": x509.bundle([current.certificate, former.certificate]).decode()}
    assert "PRIVATE" not in str(cluster.data)


def test_it_is_written_only_when_it_differs(cluster: Harness) -> None:
    cluster.issue()
    for _ in range(3):
        cluster.reconcile()
    assert [verb for verb, *_ in cluster.server.calls].count("merge") == 1


def test_while_there_is_no_authority_it_stays_as_it_is(cluster: Harness) -> None:
    cluster.reconcile()
    assert cluster.data == {}


def test_without_the_config_map_nothing_is_read_or_written(cluster: Harness) -> None:
    cluster.server.remove("ConfigMap", ca_bundle.NAME, NAMESPACE)
    cluster.issue()
    assert cluster.reconcile() > 60
    assert [kind for _, kind, _ in cluster.server.calls] == ["ConfigMap"]


def test_a_refusal_is_retried_soon(cluster: Harness) -> None:
    def refuse(verb: str, _kind: str, _name: str) -> None:
        if verb == "merge":
            raise ForbiddenError("403")

    cluster.issue()
    cluster.server.before = refuse
    assert cluster.reconcile() < 60
    cluster.server.before = lambda *_call: None
    cluster.reconcile()
    assert cluster.data
