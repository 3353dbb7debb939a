"""The webhook's process: its flags, when it is ready, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import prometheus_client
import pytest
import trustme

from oneagent.common.dynakube.namespace_mapping import LABEL
from oneagent.common.kubernetes import list_watch
from oneagent.webhook import api, main
from tests.fakes import kube_api, ports
from tests.fakes import webhook as fakes
from tests.fakes.relay import Relay

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "cart"},
    "spec": {"containers": [{"name": "cart", "image": "example.com/cart"}]},
}
KUBE = {
    "apiVersion": "dynatrace.com/v1beta6",
    "kind": "DynaKube",
    "metadata": {"name": "demo", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"apiUrl": "https://abc12345.live.dynatrace.com/api", "oneAgent": {"cloudNativeFullStack": {}}},
}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Process:
    """The command on a cluster, while in use as a context manager."""

    def __init__(self, place: Path, cluster: kube_api.KubeApi) -> None:
        self._place, self._cluster = place, cluster
        self.port, self.health = ports.free(), ports.free()

    @contextlib.contextmanager
    def running(self, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        addresses = [f"--address=127.0.0.1:{self.port}", f"--metrics-address=127.0.0.1:{self.health}"]
        environment = os.environ | {"KUBECONFIG": str(self._cluster.kubeconfig(self._place / "kubeconfig"))}
        with (self._place / "log").open("wb") as log:
            program = [sys.executable, "-m", "oneagent.webhook.main", "--image=example.com/oneagent:1"]
            process = subprocess.Popen([*program, *addresses, *flags], env=environment, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def ready(self) -> tuple[int, str]:
        return ports.get(self.health, "/readyz")


def secret(authority: trustme.CA) -> fakes.Json:
    pair = fakes.pair(authority)
    data = {"tls.crt": base64.b64encode(pair.chain).decode(), "tls.key": base64.b64encode(pair.key).decode()}
    return {"kind": "Secret", "metadata": {"name": "oneagent-webhook-certs"}, "data": data}


class TestTheProcess:
    def test_serves_once_it_knows_all_it_needs_and_ends_after_a_drain(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        with kube_api.KubeApi() as cluster:
            webhook = Process(tmp_path, cluster)
            cluster.put("dynakubes", KUBE)
            cluster.put("secrets", {"metadata": {"name": "corp-proxy"}, "data": {}})
            cluster.put("namespaces", {"metadata": {"name": "shop", "uid": "2", "labels": {LABEL: "demo"}}})
            with webhook.running("--drain=1s") as process:
                until(lambda: "no certificate" in webhook.ready()[1])
                assert ports.get(webhook.health, "/livez") == (200, "ok\n")
                cluster.put("secrets", secret(authority))
                until(lambda: webhook.ready() == (200, "ok\n"))
                url = f"https://127.0.0.1:{webhook.port}"
                with httpx.Client(base_url=url, verify=fakes.trusting(authority), trust_env=False) as client:
                    self._asks(client)
                    metrics = ports.get(webhook.health, "/metrics")[1]
                    assert "oneagent_webhook_caches_synced 1.0" in metrics
                    for kind in ("namespaces", "dynakubes", "events", "replicasets", "secrets"):
                        assert f'oneagent_webhook_watch_silent_seconds{{resource="{kind}"}}' in metrics
                    # The DynaKube has no status yet, so the pod's owner is told.
                    until(lambda: bool(cluster.seen("events", method="POST")))
                    process.send_signal(signal.SIGTERM)
                    until(lambda: webhook.ready()[0] == 503)
                    answer = client.post("/inject", json=fakes.review(POD))
                    assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
                assert process.wait(10) == 0

    def _asks(self, client: httpx.Client) -> None:
        """Every path, with the real deciders behind it."""
        pod = fakes.ask(client, "/inject", fakes.review(POD))
        assert fakes.patch(pod)[0]["value"]["oneagent.dynatrace.com/injected"] == "false"
        namespace = {"kind": "Namespace", "metadata": {"name": "new", "labels": {"a": "b"}}}
        assert [one["value"] for one in fakes.patch(fakes.ask(client, "/label-ns", fakes.review(namespace)))] == [
            "demo"
        ]
        assert fakes.ask(client, "/validate", fakes.review(KUBE, "UPDATE", KUBE))["allowed"]
        proxied = {
            **KUBE,
            "spec": {"apiUrl": "https://abc12345.live.example/api", "proxy": {"valueFrom": "corp-proxy"}},
        }
        refused = fakes.ask(client, "/validate", fakes.review(proxied))["status"]["message"]
        assert "1. spec.proxy.valueFrom is 'corp-proxy': this Secret has nothing at the key proxy" in refused
        empty = {**KUBE, "metadata": {"name": "other", "namespace": "dynatrace"}, "spec": {}}
        denied = fakes.ask(client, "/validate", fakes.review(empty))
        assert denied["status"]["message"].startswith("1 error(s) found in the Dynakube\n1. ")

    def test_ends_with_a_reason_if_its_port_is_taken(self, tmp_path: Path) -> None:
        with kube_api.KubeApi() as cluster:
            webhook = Process(tmp_path, cluster)
            webhook.port = int(cluster.url.rpartition(":")[2])
            with webhook.running("--log-format=text") as process:
                assert process.wait(20) == 1
        log = (tmp_path / "log").read_text()
        assert "webhook failed" in log
        assert str(webhook.port) in log
        assert "Traceback" not in log


class TestReplicas:
    def test_leave_one_event_of_each_state_of_the_circuit_breaker(self, tmp_path: Path) -> None:
        driver = {
            "metadata": {"name": "oneagent-csi-driver", "namespace": "dynatrace"},
            "status": {"desiredNumberScheduled": 1, "numberReady": 1},
        }
        with kube_api.KubeApi() as cluster, contextlib.ExitStack() as replicas:
            cluster.put("dynakubes", KUBE)
            cluster.put("csidrivers", {"metadata": {"name": "csi.oneagent.dynatrace.com"}})
            for name in ("one", "two"):
                (place := tmp_path / name).mkdir()
                replicas.enter_context(Process(place, cluster).running())

            def written(count: int) -> list[str]:
                until(lambda: len(cluster.seen("events", method="PATCH")) == count)
                found = sorted(cluster.objects("events"), key=lambda event: int(event["metadata"]["resourceVersion"]))
                assert {event["involvedObject"]["name"] for event in found} == {"demo"}
                return [event["reason"] for event in found]

            assert written(2) == ["InjectionPaused"]
            cluster.put("daemonsets", driver)
            assert written(4) == ["InjectionPaused", "InjectionResumed"]
            cluster.delete("daemonsets", "oneagent-csi-driver")
            assert written(6) == ["InjectionResumed", "InjectionPaused"]
            assert not cluster.seen("events", method="POST")


class TestClients:
    def test_prove_themselves_where_a_ca_is_given_and_a_new_ca_counts_at_once(self, tmp_path: Path) -> None:
        authority, ours, others = trustme.CA(), trustme.CA(), trustme.CA()
        file = tmp_path / "client-ca.crt"
        with kube_api.KubeApi() as cluster:
            cluster.put("secrets", secret(authority))
            webhook = Process(tmp_path, cluster)
            with webhook.running(f"--client-ca={file}", "--drain=0s"):
                until(lambda: "no CA certificates of clients" in webhook.ready()[1])
                assert not self._is_answered(webhook, authority, ours)
                file.write_bytes(ours.cert_pem.bytes())
                until(lambda: webhook.ready()[0] == 200)
                assert self._is_answered(webhook, authority, ours)
                assert not self._is_answered(webhook, authority, others)
                assert not self._is_answered(webhook, authority, None)
                file.write_bytes(b"no certificate")
                rejected = "CA certificates of clients rejected"
                until(lambda: (tmp_path / "log").read_text().count(rejected) == 2)
                assert self._is_answered(webhook, authority, ours)
                file.write_bytes(others.cert_pem.bytes())
                until(lambda: self._is_answered(webhook, authority, others))
                assert not self._is_answered(webhook, authority, ours)
                cluster.put("secrets", secret(renewed := trustme.CA()))
                until(lambda: self._is_answered(webhook, renewed, others))
                assert not self._is_answered(webhook, renewed, None)

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_are_refused_by_the_handshake_whatever_its_version(self, tmp_path: Path, version: ssl.TLSVersion) -> None:
        authority, ours = trustme.CA(), trustme.CA()
        (file := tmp_path / "client-ca.crt").write_bytes(ours.cert_pem.bytes())
        with kube_api.KubeApi() as cluster:
            cluster.put("secrets", secret(authority))
            webhook = Process(tmp_path, cluster)
            with webhook.running(f"--client-ca={file}", "--drain=0s"):
                until(lambda: webhook.ready()[0] == 200)
                assert self._is_answered(webhook, authority, ours, version)
                assert not self._is_answered(webhook, authority, None, version)

    def _is_answered(
        self,
        webhook: Process,
        authority: trustme.CA,
        client_authority: trustme.CA | None,
        version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> bool:
        context = fakes.trusting(authority)
        context.maximum_version = version
        if client_authority is not None:
            client_authority.issue_cert(common_name="api-server").configure_cert(context)
        url = f"https://127.0.0.1:{webhook.port}"
        with httpx.Client(base_url=url, verify=context, trust_env=False) as client:
            try:
                return client.post("/inject", json=fakes.review(POD)).status_code == 200
            except httpx.TransportError:
                return False


class TestReadiness:
    def test_does_not_wait_for_dynakubes_that_only_it_can_convert(self, tmp_path: Path) -> None:
        (tmp_path / "tls.crt").write_bytes((pair := fakes.pair(trustme.CA())).chain)
        (tmp_path / "tls.key").write_bytes(pair.key)
        flags = ["--image=x", "--address=127.0.0.1:0", "--metrics-address=127.0.0.1:0", "--drain=0s"]
        config = main.parse([*flags, f"--certificate-directory={tmp_path}"])

        async def ready(cluster: kube_api.KubeApi) -> list[tuple[int, str]]:
            now = [100.0]
            server = api.connect(cluster.kubeconfig(tmp_path / "kubeconfig"))
            webhook = main.Webhook(config, server, prometheus_client.CollectorRegistry(), lambda: now[0])
            tasks = [asyncio.create_task(work) for work in webhook.work()]
            await webhook.start()
            watched = ("namespaces", "csidrivers")
            await asyncio.to_thread(until, lambda: all(cluster.seen(kind, watch=True) for kind in watched))
            answers = []
            for seconds in (0, 25):
                now[0] += seconds
                answers.append(await asyncio.to_thread(ports.get, webhook.health.port, "/readyz"))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await webhook.drain()
            await webhook.close()
            return answers

        with kube_api.KubeApi() as cluster:
            cluster.fail_next(500, times=100)
            unsynced, needed = asyncio.run(ready(cluster))
        assert unsynced == (503, "the cluster's objects are not read yet\n")
        assert needed == (200, "ok\n")

    def test_ends_while_the_api_server_is_silent(self, tmp_path: Path) -> None:
        (tmp_path / "tls.crt").write_bytes((pair := fakes.pair(trustme.CA())).chain)
        (tmp_path / "tls.key").write_bytes(pair.key)
        flags = ["--image=x", "--address=127.0.0.1:0", "--metrics-address=127.0.0.1:0", "--drain=0s"]
        config = main.parse([*flags, f"--certificate-directory={tmp_path}"])
        registry = prometheus_client.CollectorRegistry()
        periods = list_watch.Periods(watch=1.0, quiet=1.0, spare=0.5)

        async def test(cluster: kube_api.KubeApi, relay: Relay) -> None:
            file = cluster.kubeconfig(tmp_path / "kubeconfig")
            file.write_text(file.read_text().replace(cluster.url, f"http://127.0.0.1:{relay.port}"))
            webhook = main.Webhook(config, api.connect(file), registry, periods=periods)
            tasks = [asyncio.create_task(work) for work in webhook.work()]
            await webhook.start()

            def readiness() -> tuple[int, str]:
                return ports.get(webhook.health.port, "/readyz")

            await asyncio.to_thread(until, lambda: readiness() == (200, "ok\n"))
            relay.is_silent = True
            relay.silence()
            await asyncio.to_thread(until, lambda: readiness()[0] == 503)
            assert "no response for " in (await asyncio.to_thread(readiness))[1]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await webhook.drain()
            await webhook.close()

        with kube_api.KubeApi() as cluster, Relay("127.0.0.1", int(cluster.url.rpartition(":")[2])) as relay:
            asyncio.run(test(cluster, relay))
        sample = registry.get_sample_value("oneagent_webhook_watch_silent_seconds", {"resource": "namespaces"})
        assert sample is not None and sample > 2


class TestTheFlags:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "--image is missing"),
            (["--image=x", "--address="], "--address is missing"),
            (["--image=x", "--breaker-window=0"], "--breaker-window 0s: give at least 1s"),
            (["--image=x", "--image-pull-policy=Sometimes"], "Sometimes"),
            (["--image=x", "--certificate-directory=here"], "'here' is not an absolute path"),
        ],
    )
    def test_that_can_not_be_used_are_refused(
        self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            main.parse(arguments)
        assert said in capsys.readouterr().err

    def test_have_the_usual_values(self) -> None:
        config = main.parse(["--image=x"])
        assert (config.namespace, config.address, config.drain_seconds) == ("dynatrace", ":8443", 5.0)
        assert config.certificate_directory is None
