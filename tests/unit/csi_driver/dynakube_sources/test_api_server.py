from __future__ import annotations

import base64
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from oneagent.common import backoff, dynakube
from oneagent.common.kubernetes import errors, list_watch
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.dynakube_sources import api_client, api_server
from tests.fakes import kube_api
from tests.unit.csi_driver.dynakube_sources.following import Following, eventually, following, manifest


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
    )
    yield found
    found.close()


def watching(api: kube_api.KubeApi, source: dynakube_sources.DynaKubeSource) -> Following:
    found = Following(source)
    found.start()
    eventually(lambda: api.open_watches)
    return found


class TestFollowing:
    def test_what_is_there_is_reported_at_start(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        api.put("dynakubes", manifest("a"))
        api.put("dynakubes", manifest("b"))
        api.put("dynakubes", {**manifest("c"), "metadata": {"name": "c", "namespace": "elsewhere"}})
        with following(source) as found:
            found.until_names("a", "b")
        assert len(found.reports) == 1

    def test_changes_are_reported_as_they_happen(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        with following(source) as found:
            found.until_names()
            api.put("dynakubes", manifest("a"))
            found.until_names("a")
            api.put("dynakubes", manifest("a", version="1.2.3"))
            found.until(lambda snapshot: snapshot.dynakubes[next(iter(snapshot.dynakubes))].decided_version)
            api.delete("dynakubes", "a")
            found.until_names()
        assert len(api.seen("dynakubes")) == 1

    def test_long_lists_are_read_page_by_page(self, api: kube_api.KubeApi, tmp_path: Path) -> None:
        for number in range(7):
            api.put("dynakubes", manifest(f"dk-{number}"))
        config = api.kubeconfig(tmp_path / "config")
        source = api_server.KubernetesSource(kubeconfig=config, page_size=3)
        with following(source) as found:
            found.until_names(*(f"dk-{number}" for number in range(7)))
        source.close()
        assert len(api.seen("dynakubes")) == 3

    def test_a_list_whose_next_page_is_forgotten_starts_anew(self, api: kube_api.KubeApi, tmp_path: Path) -> None:
        api.put("dynakubes", manifest("a"))
        api.put("dynakubes", manifest("b"))
        api.forget_next_page = True
        config = api.kubeconfig(tmp_path / "config")
        source = api_server.KubernetesSource(kubeconfig=config, page_size=1)
        with following(source) as found:
            found.until_names("a", "b")
        source.close()
        assert len(api.seen("dynakubes")) == 4

    def test_a_cut_is_survived_without_a_list_and_misses_nothing(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        found = watching(api, source)
        api.cut()
        eventually(lambda: len(api.seen("dynakubes", watch=True)) >= 2)
        api.put("dynakubes", manifest("a"))
        found.until_names("a")
        assert found.stopped_after() < 1.0
        assert len(api.seen("dynakubes")) == 1

    def test_after_a_bookmark_a_cut_does_not_fall_behind_what_the_server_remembers(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        found = watching(api, source)
        api.compact()
        api.bookmark()
        api.cut()
        eventually(lambda: len(api.seen("dynakubes", watch=True)) >= 2)
        api.put("dynakubes", manifest("a"))
        found.until_names("a")
        found.stopped_after()
        assert len(api.seen("dynakubes")) == 1

    def test_what_was_deleted_while_the_connection_was_away_is_noticed(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        api.put("dynakubes", manifest("a"))
        found = watching(api, source)
        with api.changed:
            api.delete("dynakubes", "a")
            api.compact()
            api.cuts += 1
        found.until_names()
        found.stopped_after()
        assert len(api.seen("dynakubes")) == 2

    def test_an_error_event_of_410_leads_to_a_new_list(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        found = watching(api, source)
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        api.send_to_watches({"type": "ERROR", "object": status})
        eventually(lambda: len(api.seen("dynakubes")) == 2)
        found.stopped_after()

    @pytest.mark.parametrize("code", [429, 500, 503, 504])
    def test_a_server_in_trouble_is_asked_again(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource, code: int
    ) -> None:
        api.put("dynakubes", manifest("a"))
        api.fail_next(code, watch=False, times=2)
        api.fail_next(code, watch=True, times=2)
        with following(source) as found:
            found.until_names("a")
            eventually(lambda: api.open_watches)
            assert source.silent_seconds() < 60

    def test_retry_after_is_honoured(self, api: kube_api.KubeApi, source: api_server.KubernetesSource) -> None:
        api.fail_next(429, watch=False, Retry_After="1")
        began = time.monotonic()
        with following(source) as found:
            found.until_names()
        assert time.monotonic() - began >= 1.0

    def test_a_watch_that_the_server_ends_is_opened_again(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        api.watch_seconds = 0.05
        with following(source) as found:
            eventually(lambda: len(api.seen("dynakubes", watch=True)) >= 3)
            api.put("dynakubes", manifest("a"))
            found.until_names("a")
        assert len(api.seen("dynakubes")) == 1

    def test_a_watch_asks_for_bookmarks_and_a_time_limit(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        watching(api, source).stopped_after()
        query = api.seen("dynakubes", watch=True)[0].query
        assert query["allowWatchBookmarks"] == "true"
        assert 75 <= int(query["timeoutSeconds"]) <= 100

    def test_an_idle_watch_is_stopped_within_a_second(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        assert watching(api, source).stopped_after() < 1.0

    def test_a_pause_is_stopped_within_a_second(self, api: kube_api.KubeApi, tmp_path: Path) -> None:
        config = api.kubeconfig(tmp_path / "config")
        api.fail_next(503, times=100)
        source = api_server.KubernetesSource(kubeconfig=config, retry=backoff.Backoff(60, 60, draw=lambda: 1))
        found = Following(source)
        found.start()
        eventually(lambda: api.seen("dynakubes"))
        assert found.stopped_after() < 1.0
        source.close()

    def test_an_error_of_the_consumer_is_not_mistaken_for_one_of_the_connection(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        def changed(snapshot: dynakube_sources.Snapshot) -> None:
            if snapshot.dynakubes:
                raise OSError("disk full")
            threading.Thread(target=lambda: api.put("dynakubes", manifest("a"))).start()

        with pytest.raises(OSError, match="disk full"):
            source.run(changed, threading.Event())


class TestDefinition:
    def test_the_newest_version_that_has_dynakubes_is_used(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        api.served = ["v1", "v1beta6", "v1beta5"]  # v1 has other kinds only
        with following(source) as found:
            found.until_names()
        assert "/v1beta6/" in api.seen("dynakubes")[0].path

    def test_a_configured_version_is_used_without_asking(self, api: kube_api.KubeApi, tmp_path: Path) -> None:
        config = api.kubeconfig(tmp_path / "config")
        source = api_server.KubernetesSource(kubeconfig=config, api_version="v1beta5", namespace="other")
        with following(source) as found:
            found.until_names()
        source.close()
        assert api.requests[0].path == "/apis/dynatrace.com/v1beta5/namespaces/other/dynakubes"

    def test_a_missing_definition_is_waited_for_and_said(
        self,
        api: kube_api.KubeApi,
        source: api_server.KubernetesSource,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        api.served = []
        with following(source) as found:
            eventually(lambda: len(api.requests) > 2)
            assert not found.reports
            api.put("dynakubes", manifest("a"))
            api.served = ["v1beta6"]
            found.until_names("a")
        reasons = [str(getattr(record, "fields", {}).get("reason")) for record in caplog.records]
        assert any("dynakubes.dynatrace.com" in reason and "installed?" in reason for reason in reasons)

    def test_a_version_that_is_no_longer_served_is_replaced(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        api.put("dynakubes", manifest("a"))
        found = watching(api, source)
        api.served, api.dynakube_versions = ["v1beta7"], {"v1beta7"}
        api.cut()
        eventually(lambda: any("/v1beta7/" in request.path for request in api.seen("dynakubes", watch=True)))
        found.stopped_after()

    def test_no_permission_is_said_and_asked_for_again(
        self,
        api: kube_api.KubeApi,
        source: api_server.KubernetesSource,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        api.forbidden.add("dynakubes")
        with following(source) as found:
            eventually(lambda: len(api.seen("dynakubes")) > 1)
            api.forbidden.clear()
            found.until_names()
        assert "role" in str(caplog.records[0].__dict__["fields"]["reason"])


class TestSecrets:
    def test_values_are_decoded(self, api: kube_api.KubeApi, source: api_server.KubernetesSource) -> None:
        data = {"apiToken": base64.b64encode(b"dt0c01.x").decode()}
        api.put("secrets", {"metadata": {"name": "prod"}, "data": data})
        assert source.secret("prod") == {"apiToken": "dt0c01.x"}

    def test_config_maps_are_read(self, api: kube_api.KubeApi, source: api_server.KubernetesSource) -> None:
        api.put("configmaps", {"metadata": {"name": "cas"}, "data": {"certs": "PEM"}})
        assert source.config_map("cas") == {"certs": "PEM"}

    def test_a_missing_one_a_forbidden_one_and_a_failing_server_are_told_apart(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        with pytest.raises(errors.NotFoundError, match="secrets/prod"):
            source.secret("prod")
        api.fail_next(503, plural="secrets", Retry_After="3")
        with pytest.raises(errors.UnavailableError) as caught:
            source.secret("prod")
        assert caught.value.retry_after == 3.0
        api.forbidden.add("secrets")
        with pytest.raises(errors.ForbiddenError, match="role"):
            source.secret("prod")

    @pytest.mark.parametrize("name", ["../configmaps/x", "", "a/b", "A", "x?watch=1"])
    def test_a_name_that_is_none_does_not_reach_the_server(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource, name: str
    ) -> None:
        with pytest.raises(errors.NotFoundError):
            source.secret(name)
        assert not api.requests

    @pytest.mark.parametrize("value", ["not base64!", base64.b64encode(b"\xff\xfe").decode()])
    def test_a_value_that_cannot_be_decoded_is_not_shown(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource, value: str
    ) -> None:
        api.put("secrets", {"metadata": {"name": "prod"}, "data": {"apiToken": value}})
        with pytest.raises(errors.UnavailableError) as caught:
            source.secret("prod")
        assert value not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_server_that_is_not_there_is_unavailable(self, tmp_path: Path) -> None:
        with kube_api.KubeApi() as api:
            config = api.kubeconfig(tmp_path / "config")
        source = api_server.KubernetesSource(kubeconfig=config)
        with pytest.raises(errors.UnavailableError):
            source.secret("prod")
        source.close()


POD = dynakube_sources.PodReference("shop", "cart-0", "pod-uid")


class TestEvents:
    def test_an_event_names_the_pod_and_who_says_it(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        source.event(POD, "Warning", "NoAgentMounted", "no agent within 10 attempts")
        (event,) = api.objects("events")
        assert event["involvedObject"] == {
            "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "cart-0", "uid": "pod-uid",
        }  # fmt: skip
        assert event["metadata"]["namespace"] == "shop"
        assert (event["type"], event["reason"], event["count"]) == ("Warning", "NoAgentMounted", 1)
        assert event["source"] == {"component": "oneagent-csi", "host": "node-1"}

    def test_an_event_may_be_about_a_dynakube(self, api: kube_api.KubeApi, source: api_server.KubernetesSource) -> None:
        source.event(dynakube.from_object(manifest("prod")), "Normal", "Installed", "1.2.3")
        assert api.objects("events")[0]["involvedObject"]["kind"] == "DynaKube"

    def test_a_repeated_event_is_counted_and_said_once_a_minute(self, api: kube_api.KubeApi, tmp_path: Path) -> None:
        now, about = [0.0], dynakube.from_object(manifest("prod"))
        config = api.kubeconfig(tmp_path / "config")
        source = api_server.KubernetesSource(kubeconfig=config, clock=lambda: now[0])
        for _ in range(5):
            source.event(about, "Warning", "NoAgentMounted", "again")
        assert (len(api.requests), api.objects("events")[0]["count"]) == (1, 1)
        now[0] += 61
        source.event(about, "Warning", "NoAgentMounted", "again")
        source.event(about, "Warning", "NoAgentMounted", "something else")
        counts = {event["message"]: event["count"] for event in api.objects("events")}
        assert counts == {"again": 6, "something else": 1}
        source.close()

    def test_outside_the_namespace_of_dynakubes_where_it_has_no_right_to_count_a_repeat_is_a_new_event(
        self, api: kube_api.KubeApi, tmp_path: Path
    ) -> None:
        now = [0.0]
        source = api_server.KubernetesSource(kubeconfig=api.kubeconfig(tmp_path / "config"), clock=lambda: now[0])
        for now[0] in (0.0, 1.0, 61.0):
            source.event(POD, "Warning", "NoAgentMounted", "again")
        assert [event["count"] for event in api.objects("events")] == [1, 1]
        source.close()

    def test_an_event_that_the_server_has_forgotten_is_made_anew(self, api: kube_api.KubeApi, tmp_path: Path) -> None:
        now, about = [0.0], dynakube.from_object(manifest("prod"))
        config = api.kubeconfig(tmp_path / "config")
        source = api_server.KubernetesSource(kubeconfig=config, clock=lambda: now[0])
        source.event(about, "Normal", "Mounted", "x")
        api.delete("events", api.objects("events")[0]["metadata"]["name"], about.namespace)
        now[0] += 3700
        source.event(about, "Normal", "Mounted", "x")
        assert [event["count"] for event in api.objects("events")] == [1]
        source.close()

    def test_what_goes_wrong_stays_here_and_the_next_one_is_tried(
        self, api: kube_api.KubeApi, source: api_server.KubernetesSource
    ) -> None:
        api.fail_next(500, plural="events")
        source.event(POD, "Normal", "Mounted", "x")
        assert api.objects("events") == []
        source.event(POD, "Normal", "Mounted", "x")
        assert len(api.objects("events")) == 1


class TestConnection:
    def test_a_kubeconfig_gives_server_authority_and_token(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        with kube_api.KubeApi(token="s3cret", tls=tls) as api:
            config = api.kubeconfig(tmp_path / "config", ca=authority.cert_pem.bytes())
            monkeypatch.setenv("KUBECONFIG", str(config))
            source = api_server.KubernetesSource()
            found = watching(api, source)
            api.put("dynakubes", manifest("a"))
            found.until_names("a")
            assert found.stopped_after() < 1.0
            source.close()

    def test_in_a_cluster_the_service_account_is_used_and_its_renewed_token(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        account = tmp_path / "account"
        account.mkdir()
        authority.cert_pem.write_to_path(str(account / "ca.crt"))
        (account / "token").write_text("first")
        (account / "namespace").write_text("monitoring")
        with kube_api.KubeApi(token="first", tls=tls) as api:
            host, port = api.url.removeprefix("https://").split(":")
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
            api.put("configmaps", {"metadata": {"name": "cas", "namespace": "monitoring"}, "data": {"k": "v"}})
            source = api_server.KubernetesSource(service_account=account)
            assert source.config_map("cas") == {"k": "v"}
            api.token = "second"
            (account / "token").write_text("second")
            assert source.config_map("cas") == {"k": "v"}
            source.close()

    @pytest.mark.parametrize("text", ["", "[]", "{}", "current-context: x\nclusters: []\ncontexts: []", ": :"])
    def test_a_configuration_that_is_none_is_named(self, tmp_path: Path, text: str) -> None:
        config = tmp_path / "config"
        config.write_text(text)
        with pytest.raises(errors.KubeconfigError, match=str(config)):
            api_client.connect(config)

    def test_no_configuration_at_all_says_where_it_was_looked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
        with pytest.raises(errors.KubeconfigError, match="in-cluster, KUBECONFIG"):
            api_client.connect()
