"""Lists after the first one: spread over time, from the cache, in pages, and never back in time."""

from __future__ import annotations

import collections

import pytest

from oneagent.common import backoff
from oneagent.common.kubernetes import errors, list_watch
from tests.unit.common.kubernetes.server_model import PATH, Client, Server, read, requests, synced
from tests.unit.common.kubernetes.watching import Watching, change


class TestListsAfterTheFirst:
    """Thousands of clients lose their watches together, and return to one API server."""

    GONE = errors.GoneError("410")

    def list_request(self, watching: Watching) -> list_watch.ListRequest:
        request = watching.state.next_request()
        assert isinstance(request, list_watch.ListRequest)
        return request

    def test_are_spread_over_the_whole_time(self) -> None:
        fleet = [Watching(list_watch.NODE_PERIODS, "a") for _ in range(2000)]
        pauses = [watching.watch(error=self.GONE) for watching in fleet]
        per_second = collections.Counter(int(pause) for pause in pauses if pause > 1)
        assert max(pauses) <= 60
        assert len(per_second) == 59
        assert max(per_second.values()) < 80

    @pytest.mark.parametrize(("minutes", "names", "longest"), [(4, (), 10), (6, (), 60), (4, ("a",), 60)])
    def test_wait_shortly_in_the_first_minutes_of_a_client_that_waits_for_the_first_object(
        self, minutes: int, names: tuple[str, ...], longest: int
    ) -> None:
        fleet = [Watching(list_watch.NODE_PERIODS, *names) for _ in range(500)]
        pauses = [watching.watch(minutes * 60.0, error=self.GONE) for watching in fleet]
        assert longest / 2 < max(pauses) <= longest

    def test_wait_once_and_not_again_after_a_failure(self) -> None:
        watching = Watching(list_watch.Periods(relist=1e6), "a")
        assert watching.watch(error=self.GONE) > 30
        self.list_request(watching)
        assert watching.state.end_attempt(errors.UnavailableError("503")) <= 30

    def test_of_a_client_that_has_listed_nothing_yet_do_not_wait(self) -> None:
        collection = list_watch.Collection(PATH, periods=list_watch.Periods(relist=1e6))
        state = list_watch.ListWatch(collection, read, retry=backoff.Backoff(1, 30, draw=lambda: 1.0))
        for _ in range(2):
            request = state.next_request()
            assert isinstance(request, list_watch.ListRequest)
            assert "resourceVersion" not in request.query
            assert state.end_attempt(self.GONE) <= 2

    def test_follow_a_silent_connection_at_once_because_it_is_that_of_one_client(self) -> None:
        watching = Watching(list_watch.Periods(relist=1e6), "a")
        assert watching.watch(error=errors.SilentError("nothing came")) <= 1

    def test_are_served_from_the_cache(self) -> None:
        watching = Watching()
        watching.watch(error=self.GONE)
        assert self.list_request(watching).query["resourceVersion"] == "0"

    def test_of_more_than_a_page_come_in_pages(self) -> None:
        server = Server()
        for name in "abc":
            server.put(name, 1)
        client = synced(server)
        server.compact()
        client.step()
        queries = [dict(request.query) for request in requests(client.state) if self.add(client, server, request)]
        assert [sorted(query) for query in queries] == [["limit"], ["continue", "limit"]]

    def add(self, client: Client, server: Server, request: list_watch.ListRequest) -> bool:
        client.state.add_page(server.page(request))
        return True

    def test_do_not_go_back_in_time_unless_etcd_has_done_so(self) -> None:
        watching = Watching()
        watching.watch(change(20), error=self.GONE)
        with pytest.raises(errors.UnavailableError, match="older"):
            watching.list(15)
        watching.state.end_attempt(errors.UnavailableError("older"))
        assert set(watching.state.objects) == {"a"}
        assert "resourceVersion" not in self.list_request(watching).query
        watching.list(15)
        assert watching.state.version == "15"
