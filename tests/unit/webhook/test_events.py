"""Events are written behind the admissions' back, once, and about something that people look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import prometheus_client
import pytest

from oneagent.common.kubernetes.events import Subject
from oneagent.webhook import events
from oneagent.webhook.injection.inputs import InjectionResult
from oneagent.webhook.metrics import Metrics
from tests.fakes import kube_api
from tests.fakes import webhook as fakes
from tests.unit.webhook.following import connected, eventually, running

OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart-5d4f", "uid": "1234", "controller": True}
POD = {"kind": "Pod", "metadata": {"generateName": "cart-5d4f-", "ownerReferences": [OWNER]}}


def notices(*messages: str) -> InjectionResult:
    return InjectionResult(injected=False, reason="Trouble", notices=[fakes.notice(message) for message in messages])


class TestAnEvent:
    def test_is_about_the_pods_controller(self) -> None:
        with fakes.Serving() as serving, serving.client() as client:
            serving.decisions.outcome = notices("it was not injected")
            fakes.ask(client, "/inject", fakes.review(POD))
            ((path, event),) = serving.journal.wait(1)
        assert path == "/api/v1/namespaces/shop/events"
        about = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "namespace": "shop", "name": "cart-5d4f", "uid": "1234"}
        assert event["involvedObject"] == about
        assert (event["type"], event["reason"], event["message"]) == ("Warning", "NotInjected", "it was not injected")
        assert event["metadata"]["name"].startswith("cart-5d4f.")

    def test_is_about_the_pod_if_nobody_controls_it(self) -> None:
        assert events.subject_of_pod({"metadata": {"name": "one"}}, "shop") == Subject("v1", "Pod", "shop", "one")
        assert events.subject_of_pod({"metadata": {"generateName": "one-"}}, "shop").name == "one"

    def test_is_not_written_in_a_dry_run(self) -> None:
        with fakes.Serving() as serving, serving.client() as client:
            serving.decisions.outcome = notices("first")
            fakes.ask(client, "/inject", fakes.review(POD, dryRun=True))
            serving.decisions.outcome = notices("second")
            fakes.ask(client, "/inject", fakes.review(POD, dryRun=False))
            assert [event["message"] for _, event in serving.journal.wait(1)] == ["second"]

    def test_that_can_not_be_written_costs_no_admission_and_no_other_event(self) -> None:
        with fakes.Serving() as serving, serving.client() as client:
            serving.journal.error = ConnectionError("away")
            serving.decisions.outcome = notices("first")
            assert fakes.ask(client, "/inject", fakes.review(POD))["allowed"]
            while not serving.registry.get_sample_value("oneagent_webhook_events_total", {"outcome": "failed"}):
                pass
            serving.journal.error = None
            serving.decisions.outcome = notices("second")
            fakes.ask(client, "/inject", fakes.review(POD))
            assert [event["message"] for _, event in serving.journal.wait(1)] == ["second"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestTheQueue:
    def written(self, act: Callable[[events.Recorder, Clock], None], count: int) -> None:
        self.registry = prometheus_client.CollectorRegistry()

        async def run() -> None:
            journal, clock = fakes.Journal(), Clock()
            recorder = events.Recorder(journal, Metrics(self.registry), clock=clock, pause_seconds=0)
            act(recorder, clock)
            writing = asyncio.create_task(recorder.run())
            await asyncio.to_thread(journal.wait, count)
            await asyncio.sleep(0.05)
            writing.cancel()
            assert len(journal.written) == count

        asyncio.run(run())

    def test_takes_the_same_once_in_five_minutes(self) -> None:
        def act(recorder: events.Recorder, clock: Clock) -> None:
            for seconds in (0, 299, 2):
                clock.now += seconds
                recorder.record(events.subject_of_pod(POD, "shop"), fakes.notice())
            recorder.record(events.subject_of_pod(POD, "other"), fakes.notice())

        self.written(act, 3)

    def test_drops_what_is_too_much_and_takes_it_again_later(self) -> None:
        def act(recorder: events.Recorder, clock: Clock) -> None:
            for number in range(250):
                recorder.record(events.subject_of_pod(POD, "shop"), fakes.notice(f"{number}"))

        self.written(act, 200)
        dropped = self.registry.get_sample_value("oneagent_webhook_events_total", {"outcome": "dropped"})
        assert dropped == pytest.approx(50)


def test_two_replicas_leave_one_event_in_five_minutes(tmp_path: Path) -> None:
    async def run(kube: kube_api.KubeApi) -> None:
        clock = Clock()
        clock.now = 3000.0
        async with connected(kube, tmp_path) as client:
            registries = [prometheus_client.CollectorRegistry() for _ in range(2)]
            replicas = [
                events.Recorder(client, Metrics(registry), clock=clock, now=clock, pause_seconds=0)
                for registry in registries
            ]

            async def have_written(times: int) -> None:
                await eventually(lambda: [written(one) for one in registries] == [times] * 2)
                assert len(kube.seen("events", method="POST")) == 2 * times
                assert len(kube.objects("events")) == times

            async with running(replicas[0]), running(replicas[1]):
                for times in (1, 2):
                    for replica in replicas:
                        replica.record(events.subject_of_pod(POD, "shop"), fakes.notice())
                    await have_written(times)
                    clock.now += 300

    def written(registry: prometheus_client.CollectorRegistry) -> float | None:
        return registry.get_sample_value("oneagent_webhook_events_total", {"outcome": "written"})

    with kube_api.KubeApi() as kube:
        asyncio.run(run(kube))
