"""What API servers get, over real TLS, whatever they send."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import httpx2 as httpx
import pytest

from oneagent.webhook import metrics
from oneagent.webhook.injection.inputs import InjectionResult
from tests.fakes import webhook as fakes

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "cart-5d4f-"}, "spec": {}}
KUBE = {"apiVersion": "dynatrace.com/v1beta6", "kind": "DynaKube", "metadata": {"name": "demo"}, "spec": {}}
UNDECIDED = {"oneagent.dynatrace.com/injected": "false", "oneagent.dynatrace.com/reason": "InternalError"}


@pytest.fixture
def serving() -> Iterator[fakes.Serving]:
    with fakes.Serving() as serving:
        yield serving


@pytest.fixture
def client(serving: fakes.Serving) -> Iterator[httpx.Client]:
    with serving.client() as client:
        yield client


class TestAPod:
    def test_gets_what_was_decided(self, serving: fakes.Serving, client: httpx.Client) -> None:
        response = fakes.ask(client, "/inject", fakes.review(POD))
        assert response["allowed"]
        assert fakes.patch(response) == fakes.PATCH
        assert serving.decisions.seen == [POD]
        assert serving.counted("/inject", "injected") == 1

    @pytest.mark.parametrize(
        ("reason", "outcome"),
        [("", "injected"), ("OptedOut", "excluded"), ("DynaKubeNotReady", "missed"), ("DriverUnavailable", "missed")],
    )
    def test_counts_for_the_coverage_of_its_namespace(
        self, serving: fakes.Serving, client: httpx.Client, reason: str, outcome: str
    ) -> None:
        serving.cluster.known = replace(fakes.FACTS, dynakube=KUBE)
        serving.decisions.outcome = InjectionResult(injected=not reason, reason=reason)
        fakes.ask(client, "/inject", fakes.review(POD))
        fakes.ask(client, "/inject", fakes.review(POD, dryRun=True))
        assert serving.covered() == {("demo", "shop", outcome): 1}

    def test_that_met_an_error_is_missed(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.decisions.error = RuntimeError("boom")
        fakes.ask(client, "/inject", fakes.review(POD))
        assert serving.covered() == {("", "shop", "missed"): 1}

    def test_counts_in_a_bounded_number_of_series(self, serving: fakes.Serving, client: httpx.Client) -> None:
        for number in range(metrics.MAX_PAIRS):
            serving.metrics.count_pod("demo", f"n{number}", "injected", "")
        fakes.ask(client, "/inject", fakes.review(POD))
        assert serving.covered()["", "", "injected"] == 1
        assert len(serving.covered()) == metrics.MAX_PAIRS + 1

    def test_stays_as_it_is_if_that_was_decided(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.decisions.outcome = InjectionResult(
            injected=False, reason="OptedOut", warnings=["first\n line", "second"]
        )
        response = fakes.ask(client, "/inject", fakes.review(POD))
        assert response == {"uid": "705ab4f5", "allowed": True, "warnings": ["first line", "second"]}
        assert serving.counted("/inject", "skipped", "OptedOut") == 1

    def test_of_a_namespace_without_a_label_is_none_of_our_business(
        self, serving: fakes.Serving, client: httpx.Client
    ) -> None:
        serving.cluster.known = None
        assert fakes.ask(client, "/inject", fakes.review(POD)) == {"uid": "705ab4f5", "allowed": True}
        assert serving.counted("/inject", "skipped", "NamespaceNotMonitored") == 1

    @pytest.mark.parametrize(
        "asked",
        [
            fakes.review(POD, "UPDATE", POD),
            fakes.review(None, "DELETE", POD),
            fakes.review(POD, subResource="ephemeralcontainers"),
            fakes.review({**POD, "kind": "Deployment"}),
        ],
    )
    def test_is_only_changed_while_it_is_created(
        self, serving: fakes.Serving, client: httpx.Client, asked: fakes.Json
    ) -> None:
        assert fakes.ask(client, "/inject", asked) == {"uid": "705ab4f5", "allowed": True}
        assert serving.decisions.seen == []


class TestAnErrorOfOurs:
    @pytest.mark.parametrize("where", ["cluster", "decisions"])
    def test_lets_the_pod_through_and_says_so(
        self, serving: fakes.Serving, client: httpx.Client, caplog: pytest.LogCaptureFixture, where: str
    ) -> None:
        getattr(serving, where).error = LookupError("no such thing")
        response = fakes.ask(client, "/inject", fakes.review(POD))
        assert response["allowed"]
        assert fakes.patch(response) == [{"op": "add", "path": "/metadata/annotations", "value": UNDECIDED}]
        assert "Make sure" in response["warnings"][0]
        assert serving.counted("/inject", "error", "InternalError") == 1
        assert "no such thing" in caplog.text
        assert serving.journal.wait(1)[0][1]["reason"] == "InjectionFailed"

    def test_keeps_the_annotations_that_a_pod_has(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.decisions.error = LookupError()
        metadata = {"annotations": {"a": "b", "oneagent.dynatrace.com/injected": "false"}}
        response = fakes.ask(client, "/inject", fakes.review({**POD, "metadata": metadata}))
        path = "/metadata/annotations/oneagent.dynatrace.com~1reason"
        assert fakes.patch(response) == [{"op": "add", "path": path, "value": "InternalError"}]

    def test_is_also_that_nothing_is_known_in_time(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.cluster.seconds = 60
        answer = client.post("/inject?timeout=300ms", json=fakes.review(POD))
        response = answer.json()["response"]
        assert response["allowed"]
        assert fakes.patch(response)[0]["value"] == UNDECIDED
        assert answer.elapsed.total_seconds() < 15
        assert serving.counted("/inject", "error", "Timeout") == 1

    def test_is_also_that_it_has_only_just_been_started(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.cluster.is_synced = False
        response = fakes.ask(client, "/inject", fakes.review(POD))
        assert fakes.patch(response)[0]["value"] == {**UNDECIDED, "oneagent.dynatrace.com/reason": "NotSynced"}
        assert serving.decisions.seen == []

    @pytest.mark.parametrize(
        "odd", ["null", "[1]", '"text"', '{"metadata": [1]}', '{"metadata": {"ownerReferences": 1}}', "{}"]
    )
    def test_is_also_a_pod_that_is_none(self, serving: fakes.Serving, client: httpx.Client, odd: str) -> None:
        serving.decisions.error = LookupError()
        body = json.dumps(fakes.review(POD)).replace(json.dumps(POD), odd)
        response = client.post("/inject", content=body).json()["response"]
        assert response["allowed"]
        assert fakes.patch(response) == []

    def test_lets_a_namespace_through_unchanged(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.cluster.error = LookupError()
        response = fakes.ask(client, "/label-ns", fakes.review({"kind": "Namespace", "metadata": {"name": "shop"}}))
        assert response == {"uid": "705ab4f5", "allowed": True}
        assert serving.counted("/label-ns", "error", "InternalError") == 1

    def test_lets_a_dynakube_through_with_a_warning(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.decisions.error = ZeroDivisionError()
        response = fakes.ask(client, "/validate", fakes.review({"kind": "DynaKube", "metadata": {"name": "demo"}}))
        assert response["allowed"]
        assert "was not validated" in response["warnings"][0]


class TestADynaKube:
    def test_is_denied_with_the_message_and_the_warnings(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.decisions.verdict = fakes.Verdict(["1 error(s)", " 1. wrong"], ["old"])
        old = {**KUBE, "spec": {"apiUrl": "https://a.b/api"}}
        response = fakes.ask(client, "/validate", fakes.review(KUBE, "UPDATE", old))
        status = {"status": "Failure", "message": "1 error(s)\n 1. wrong", "reason": "Forbidden", "code": 403}
        assert response == {"uid": "705ab4f5", "allowed": False, "status": status, "warnings": ["old"]}
        assert serving.decisions.seen == [KUBE, old]

    def test_is_allowed_with_warnings(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.decisions.verdict = fakes.Verdict(warnings=["old"])
        response = fakes.ask(client, "/validate", fakes.review(KUBE))
        assert response == {"uid": "705ab4f5", "allowed": True, "warnings": ["old"]}

    def test_can_always_be_deleted(self, serving: fakes.Serving, client: httpx.Client) -> None:
        serving.decisions.verdict = fakes.Verdict(["wrong"])
        assert fakes.ask(client, "/validate", fakes.review(None, "DELETE", KUBE))["allowed"]

    def test_comes_in_the_version_that_is_asked_for(self, client: httpx.Client) -> None:
        kube = {**KUBE, "spec": {"apiUrl": "https://abc.live.dynatrace.com/api"}}
        response = fakes.ask(client, "/convert", conversion("dynatrace.com/v1beta1", kube, kube))
        assert response["result"] == {"status": "Success"}
        assert [obj["apiVersion"] for obj in response["convertedObjects"]] == ["dynatrace.com/v1beta1"] * 2

    def test_that_is_none_fails_its_list_by_name(self, serving: fakes.Serving, client: httpx.Client) -> None:
        odd = {**KUBE, "kind": "EdgeConnect", "metadata": {"name": "other", "namespace": "dynatrace"}}
        response = fakes.ask(client, "/convert", conversion("dynatrace.com/v1beta1", KUBE, odd))
        assert response["result"]["status"] == "Failed"
        assert "EdgeConnect dynatrace/other" in response["result"]["message"]
        assert "kind is 'EdgeConnect': must be DynaKube" in response["result"]["message"]
        assert response["convertedObjects"] == []
        assert serving.counted("/convert", "failed", "FieldError") == 1


def conversion(desired: str, *objects: fakes.Json) -> fakes.Json:
    request = {"uid": "705ab4f5", "desiredAPIVersion": desired, "objects": list(objects)}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}


class TestABodyThatIsNoReview:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"", "no AdmissionReview in JSON"),
            (b"\xff\xfe{}", "no AdmissionReview in JSON"),
            (b"[" * 100_000, "no AdmissionReview in JSON"),
            (b'{"kind": "Pod", "apiVersion": "v1"}', "apiVersion 'v1' and kind 'Pod': must be admission.k8s.io/v1"),
            (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}', "admission.k8s.io/v1beta1"),
            (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}', "has no request"),
            (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {}}', "uid"),
        ],
    )
    @pytest.mark.parametrize("path", ["/inject", "/label-ns", "/validate"])
    def test_is_refused_with_the_reason(self, client: httpx.Client, path: str, body: bytes, said: str) -> None:
        answer = client.post(path, content=body)
        assert answer.status_code == 400
        assert said in answer.text

    def test_is_refused_for_conversions_too(self, client: httpx.Client) -> None:
        assert client.post("/convert", json=fakes.review(POD)).status_code == 400
        assert client.post("/convert", json=conversion("v1") | {"request": None}).status_code == 400

    def test_is_refused_if_it_is_too_large(self, serving: fakes.Serving, client: httpx.Client) -> None:
        answer = client.post("/inject", content=b" " * (9 << 20))
        assert (answer.status_code, answer.text) == (413, "the body is too large: at most 8388608 bytes are read\n")
        assert serving.counted("/inject", "refused", "413") == 1

    def test_is_not_waited_for_without_end(self, serving: fakes.Serving, client: httpx.Client) -> None:
        def slow() -> Iterator[bytes]:
            yield b"{"
            assert refused.wait(10)

        refused = threading.Event()

        async def counted() -> None:
            while not serving.counted("/inject", "refused", "408"):  # noqa: ASYNC110 - a counter wakes nobody
                await asyncio.sleep(0.01)
            refused.set()

        waiting = threading.Thread(target=lambda: serving.do(counted()))
        waiting.start()
        answer = client.post("/inject?timeout=200ms", content=slow())
        waiting.join()
        assert answer.status_code == 408

    def test_elsewhere_is_not_found(self, client: httpx.Client) -> None:
        assert (client.post("/other", content=b"").status_code, client.get("/inject").status_code) == (404, 405)
        assert client.get("/inject").headers["Allow"] == "POST"

    def test_may_have_a_timeout_that_is_none(self, client: httpx.Client) -> None:
        for query in ("", "?timeout=", "?timeout=soon", "?other=1&timeout=2s", "?timeout=%32s", "?%"):
            assert client.post(f"/inject{query}", json=fakes.review(POD)).status_code == 200


class TestDraining:
    def test_answers_what_comes_and_ends_each_connection(self) -> None:
        with fakes.Serving(drain_seconds=1.0) as serving, serving.client() as client:
            assert "Connection" not in client.post("/inject", json=fakes.review(POD)).headers
            serving.begin_to_stop()
            for _ in range(2):
                answer = client.post("/inject", json=fakes.review(POD))
                assert (answer.status_code, answer.headers["Connection"]) == (200, "close")

    def test_finishes_what_is_being_answered(self, serving: fakes.Serving) -> None:
        serving.cluster.seconds = 0.5
        answers = []
        with serving.client() as client:
            asking = threading.Thread(
                target=lambda: answers.append(fakes.ask(client, "/inject", fakes.review(POD))["allowed"])
            )
            asking.start()
            assert serving.cluster.asked.wait(10)
            serving.stop()
            asking.join()
            assert answers == [True]
            with pytest.raises(httpx.ConnectError):
                client.post("/inject", json=fakes.review(POD))


class TestTheLog:
    def test_tells_of_denials_and_of_the_rest_only_if_asked(
        self, serving: fakes.Serving, client: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "oneagent")
        fakes.ask(client, "/inject", fakes.review(POD))
        assert not [record for record in caplog.records if record.message == "admission decided"]
        serving.decisions.verdict = fakes.Verdict(["wrong"])
        fakes.ask(client, "/validate", fakes.review(KUBE))
        caplog.set_level(logging.DEBUG, "oneagent")
        fakes.ask(client, "/inject", fakes.review(POD))
        told = [record.__dict__["fields"] for record in caplog.records if record.message == "admission decided"]
        assert [(one["path"], one["outcome"]) for one in told] == [("/validate", "denied"), ("/inject", "injected")]
        assert told[0]["denied"] == "wrong"
