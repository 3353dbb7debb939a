"""OpenTelemetryInjections from the API server, beside DynaKubes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common import backoff
from oneagent.common.agents import objects
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.kubernetes import list_watch
from oneagent.csi_driver.dynakube_sources import api_server
from tests.fakes import kube_api
from tests.unit.csi_driver.dynakube_sources.following import following, manifest

PLURAL = "opentelemetryinjections"


def injection(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "csi.oneagent.dynatrace.com/v1alpha1",
        "kind": "OpenTelemetryInjection",
        "metadata": {"name": name, "namespace": "dynatrace", "uid": f"uid-{name}"},
        "spec": {"package": "file:///data/otel.zip", **spec},
    }


@pytest.fixture
def api() -> Iterator[kube_api.KubeApi]:
    with kube_api.KubeApi() as found:
        yield found


@pytest.fixture
def source(api: kube_api.KubeApi, tmp_path: Path) -> Iterator[api_server.KubernetesSource]:
    found = api_server.KubernetesSource(
        kubeconfig=api.kubeconfig(tmp_path / "config"),
        node="node-1",
        periods=list_watch.DEFAULT_PERIODS,
        retry=backoff.Backoff(0.02, 30),
        injections=True,
    )
    yield found
    found.close()


def test_both_kinds_are_one_set(api: kube_api.KubeApi, source: api_server.KubernetesSource) -> None:
    api.put("dynakubes", manifest("shop"))
    api.put(PLURAL, injection("shop"))
    with following(source) as found:
        snapshot = found.until_names("shop", "otelinj.shop")
        assert snapshot.dynakubes[DynaKubeName("otelinj.shop")].agent == "opentelemetry"
        assert all(len(report.dynakubes) == 2 for report in found.reports), "a part was reported"
        api.put(PLURAL, injection("shop", languages=["perl"]))
        snapshot = found.until(lambda snapshot: snapshot.invalid)
        assert "spec.languages" in snapshot.invalid["otelinj.shop"]
        assert set(snapshot.dynakubes) == {"shop"}
        api.delete(PLURAL, "shop")
        found.until(lambda snapshot: not snapshot.invalid)


def test_nothing_is_reported_before_both_are_known(api: kube_api.KubeApi, source: api_server.KubernetesSource) -> None:
    """What is not reported is removed from the node."""
    api.put("dynakubes", manifest("shop"))
    api.fail_next(404, plural=PLURAL, times=50)
    with following(source) as found:
        time.sleep(0.3)
        assert not found.reports
        assert found.stopped_after() < 2.0


def test_an_event_is_about_the_object_itself(api: kube_api.KubeApi, source: api_server.KubernetesSource) -> None:
    api.put(PLURAL, injection("shop"))
    with following(source) as found:
        kube = found.until_names("otelinj.shop").dynakubes[DynaKubeName("otelinj.shop")]
    subject = objects.subject_of_dynakube(kube)
    assert (subject.api_version, subject.kind) == ("csi.oneagent.dynatrace.com/v1alpha1", "OpenTelemetryInjection")
    assert (subject.namespace, subject.name, subject.uid) == ("dynatrace", "shop", "uid-shop")
