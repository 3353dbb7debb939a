"""The list and watch core against a model of an API server."""

from __future__ import annotations

import collections
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from oneagent.common import backoff
from oneagent.common.kubernetes import errors, list_watch

PATH = "/api/v1/things"
NAMES = "abcd"


class Thing(msgspec.Struct, frozen=True):
    value: int


def read(content: msgspec.Raw) -> int:
    return errors.decode(content, Thing).value


class Server:
    """A collection with its history; `oldest` is the first version from which a watch may start."""

    def __init__(self) -> None:
        self.version = self.oldest = 10
        self.things: dict[str, int] = {}
        self.history: list[tuple[int, str, str, int]] = []
        self.pages: dict[str, list[dict[str, Any]]] = {}

    def put(self, name: str, value: int) -> None:
        self._change("MODIFIED" if name in self.things else "ADDED", name, value)
        self.things[name] = value

    def delete(self, name: str) -> None:
        if name in self.things:
            self._change("DELETED", name, self.things.pop(name))

    def compact(self) -> None:
        self.version += 1
        self.oldest = self.version
        self.history.clear()
        self.pages.clear()

    def page(self, request: list_watch.ListRequest) -> bytes:
        token = request.query.get("continue", "")
        if token and token not in self.pages:
            raise errors.GoneError("410")
        things = [self._object(name, value, 0) for name, value in sorted(self.things.items())]
        items = self.pages.pop(token) if token else things
        limit = int(request.query["limit"])
        metadata = {"resourceVersion": token.partition("-")[0] or str(self.version)}
        if len(items) > limit:
            metadata["continue"] = f"{metadata['resourceVersion']}-{len(items)}"
            self.pages[metadata["continue"]] = items[limit:]
        return json.dumps({"metadata": metadata, "items": items[:limit]}).encode()

    def stream(self, request: list_watch.WatchRequest) -> bytes:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            raise errors.GoneError("410")
        events = [
            json.dumps({"type": kind, "object": self._object(name, value, at)})
            for at, kind, name, value in self.history
            if at > since
        ]
        bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
        return "".join(f"{line}\n" for line in [*events, json.dumps(bookmark)]).encode()

    def _change(self, kind: str, name: str, value: int) -> None:
        self.version += 1
        self.history.append((self.version, kind, name, value))

    def _object(self, name: str, value: int, version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version)}, "value": value}


class Client:
    """Drives the core one request at a time, and keeps what it was told of changes."""

    def __init__(self, server: Server, cuts: Iterator[int]) -> None:
        self.server, self.cuts = server, cuts
        collection = list_watch.Collection(PATH, page_size=2)
        self.state = list_watch.ListWatch(collection, read, retry=backoff.Backoff(1, 1, draw=lambda: 1.0))
        self.mirror: dict[str, int] = {}

    def step(self) -> None:
        request, error = self.state.next_request(), None
        try:
            if isinstance(request, list_watch.ListRequest):
                self._apply(self.state.add_page(self.server.page(request)))
                return
            content = self.server.stream(request)
            self.state.open()
            cut = next(self.cuts)
            if 0 <= cut < len(content):
                content = content[:cut]
            for start in range(0, len(content), 50):
                for changes in self.state.add_chunk(content[start : start + 50]):
                    self._apply(changes)
        except errors.ApiError as failure:
            error = failure
        self.state.end_attempt(error)

    def _apply(self, changes: list_watch.Changes[int] | None) -> None:
        if changes is not None:
            assert not changes.deleted.keys() - self.mirror.keys()
            self.mirror |= changes.updated
            for key, last in changes.deleted.items():
                assert self.mirror.pop(key) == last
            assert self.mirror == self.state.objects


put = st.tuples(st.just("put"), st.sampled_from(NAMES), st.integers(0, 3))
delete = st.tuples(st.just("delete"), st.sampled_from(NAMES), st.just(0))
other = st.tuples(st.sampled_from(["compact", "step", "step", "step"]), st.just(""), st.just(0))


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.lists(put | delete | other, max_size=40), st.lists(st.integers(-1, 300), min_size=1))
def test_whatever_happens_the_changes_add_up_to_the_servers_objects(
    story: list[tuple[str, str, int]], cuts: list[int]
) -> None:
    server = Server()
    client = Client(server, itertools.chain(cuts, itertools.repeat(-1)))
    for verb, name, value in story:
        match verb:
            case "put":
                server.put(name, value)
            case "delete":
                server.delete(name)
            case "compact":
                server.compact()
            case _:
                client.step()
    for _ in range(len(cuts) + 12):
        client.step()
    assert client.mirror == {f"shop/{name}": value for name, value in server.things.items()}
    assert client.state.is_synced


def synced(server: Server) -> Client:
    client = Client(server, itertools.repeat(-1))
    for _ in range(4):
        client.step()
    return client


def test_a_new_list_reports_objects_that_were_deleted_meanwhile_and_no_equal_ones() -> None:
    server = Server()
    for number, name in enumerate("abc"):
        server.put(name, number)
    client = synced(server)
    server.delete("a")
    server.put("b", 7)
    server.compact()
    client.step()  # 410
    reported = [client.state.add_page(server.page(request)) for request in requests(client.state)]
    assert reported == [list_watch.Changes({"shop/b": 7}, {"shop/a": 0}, is_list=True)]


def test_a_list_of_an_older_version_reports_all_objects_as_after_a_restore_of_etcd() -> None:
    server = Server()
    server.put("a", 1)
    client = synced(server)
    server.put("b", 2)
    client.step()
    server.things = {"a": 1}
    server.version -= 1
    server.history.clear()
    client.step()  # Its bookmark has an older version.
    client.step()  # This list may come from a cache that lags behind.
    reported = [client.state.add_page(server.page(request)) for request in requests(client.state)]
    assert reported == [list_watch.Changes({"shop/a": 1}, {"shop/b": 2}, is_list=True, is_restored=True)]


def requests(state: list_watch.ListWatch[int]) -> Iterator[list_watch.ListRequest]:
    while isinstance(request := state.next_request(), list_watch.ListRequest):
        yield request


def test_the_old_set_stays_until_the_new_list_is_complete() -> None:
    server = Server()
    for name in "abc":
        server.put(name, 1)
    client = synced(server)
    server.delete("a")
    server.compact()
    client.step()
    request = client.state.next_request()
    assert isinstance(request, list_watch.ListRequest)
    server.put("d", 1)
    assert client.state.add_page(server.page(request)) is None
    assert set(client.state.objects) == {"shop/a", "shop/b", "shop/c"}


def test_a_list_without_a_version_is_an_error_and_no_endless_loop() -> None:
    state = list_watch.ListWatch(list_watch.Collection(PATH), read)
    state.next_request()
    with pytest.raises(errors.UnavailableError, match="no resource version"):
        state.add_page(b'{"metadata": {}, "items": []}')


def test_a_connection_that_could_not_be_opened_in_time_does_not_reset_the_pauses() -> None:
    now = [0.0]
    retry = backoff.Backoff(1, 30, draw=lambda: 1.0)
    state = list_watch.ListWatch(list_watch.Collection(PATH), read, retry=retry, clock=lambda: now[0])
    pauses = []
    for _ in range(4):
        state.next_request()
        now[0] += 10
        pauses.append(state.end_attempt(errors.UnavailableError("connect timeout")))
    assert pauses == [1, 2, 4, 8]


class Watching:
    """A core that has its list, from version 10, with a clock that stands unless it is moved."""

    def __init__(self, periods: list_watch.Periods = list_watch.DEFAULT_PERIODS, *names: str) -> None:
        """`names` are those of the objects in the list."""
        self.now, self.names = 0.0, names
        self.retry = backoff.Backoff(1, 30, draw=lambda: 1.0)
        collection = list_watch.Collection(PATH, periods=periods)
        self.state = list_watch.ListWatch(collection, read, retry=self.retry, clock=lambda: self.now)
        self.list(10)

    def list(self, version: int) -> None:
        assert isinstance(self.state.next_request(), list_watch.ListRequest)
        items = [{"metadata": {"name": name, "resourceVersion": "1"}, "value": 1} for name in self.names]
        self.state.add_page(json.dumps({"metadata": {"resourceVersion": str(version)}, "items": items}).encode())

    def watch(self, *events: dict[str, Any] | float, error: Exception | None = None) -> float:
        """One watch, with events and seconds between them; the pause after it."""
        assert isinstance(self.state.next_request(), list_watch.WatchRequest)
        self.state.open()
        try:
            for event in events:
                if isinstance(event, float):
                    self.now += event
                else:
                    list(self.state.add_chunk(json.dumps(event).encode() + b"\n"))
            if error:
                raise error
        except errors.ApiError as failure:
            return self.state.end_attempt(failure)
        return self.state.end_attempt()

    def seconds(self) -> int:
        """The time limit of the next watch."""
        request = self.state.next_request()
        assert isinstance(request, list_watch.WatchRequest)
        return int(request.query["timeoutSeconds"])


def bookmark(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


def change(version: int, name: str = "a") -> dict[str, Any]:
    return {"type": "MODIFIED", "object": {"metadata": {"name": name, "resourceVersion": str(version)}, "value": 1}}


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 410, 422, 429, 500, 502, 503, 504, 0, 799])
@pytest.mark.parametrize("stood", [0.0, 60.0], ids=["at once", "after a minute"])
@pytest.mark.parametrize("as_event", [False, True], ids=["as a response", "as an event"])
def test_whatever_status_an_unknown_version_is_answered_with_a_list_follows_the_third_attempt(
    code: int, stood: float, as_event: bool
) -> None:
    watching, attempts = Watching(), 0
    while watching.state.version:
        attempts += 1
        status = errors.Status(code, "Weird", "not now")
        if as_event:
            error = {"type": "ERROR", "object": msgspec.to_builtins(status)}
            watching.watch(stood, error)
        else:
            watching.watch(stood, error=errors.from_status("GET", status))
        assert attempts <= 3


def test_a_version_lower_than_the_last_is_another_history_and_leads_to_a_list() -> None:
    watching = Watching()
    watching.watch(change(12))
    assert watching.state.version == "12"
    watching.watch(change(11, "b"))
    assert watching.state.version == ""


def test_versions_that_are_no_numbers_are_not_compared() -> None:
    watching = Watching()
    named = bookmark(0)
    for version in ("b", "a"):
        named["object"]["metadata"]["resourceVersion"] = version
        watching.watch(named)
        assert watching.state.version == version


def test_a_stream_that_falls_silent_leads_to_a_list_at_once() -> None:
    watching = Watching()
    watching.watch(bookmark(11), 115.0, error=errors.SilentError("nothing came"))
    assert watching.state.version == ""
    watching.list(11)
    assert watching.state.problem == ""


def test_a_server_that_sends_bookmarks_is_asked_to_hold_watches_for_longer() -> None:
    watching = Watching()
    assert 75 <= watching.seconds() <= 100
    watching.watch(60.0, bookmark(11))
    assert 300 <= watching.seconds() <= 400
    watching.watch(60.0, change(12))
    assert 300 <= watching.seconds() <= 400, "it was cut before a bookmark could come"
    watching.watch(80.0, change(13))
    assert 75 <= watching.seconds() <= 100


def silence(watching: Watching) -> float:
    request = watching.state.next_request()
    assert isinstance(request, list_watch.WatchRequest)
    return request.silence_seconds


def test_every_way_to_notice_a_silent_server_leaves_time_to_act_within_150_seconds() -> None:
    periods = list_watch.DEFAULT_PERIODS
    # Bookmarks come every minute; a watch without them ends after four thirds of the time at most.
    assert max(62.5, periods.quiet * 4 / 3) + 10 <= periods.silence() <= 120
    nodes = Watching(list_watch.NODE_PERIODS)
    nodes.watch(61.0, bookmark(11))
    assert silence(nodes) == periods.silence()


def test_a_node_whose_server_sends_no_bookmarks_in_time_waits_for_longer_and_asks_less() -> None:
    nodes = Watching(list_watch.NODE_PERIODS)
    assert 75 <= nodes.seconds() <= 100 < silence(nodes) <= 115, "the first watch finds out"
    nodes.watch(80.0)
    for _ in range(3):
        seconds = nodes.seconds()
        assert 300 <= seconds <= 400 < silence(nodes) <= 420
        # One that comes with a rare report of etcd's progress says nothing about the next minutes.
        nodes.watch(180.0, bookmark(11), seconds - 180.0)


class TestIdleRequestsOfANode:
    """Those of its watch, against the protocol as Kubernetes documents it. Its report adds one an hour: 16 in all."""

    @pytest.mark.parametrize(
        ("progress_seconds", "most"), [(5, 2.5), (600, 15.0), (0, 15.0)], ids=["kubeadm", "etcd's default", "none"]
    )
    def test_are_few_whether_the_server_sends_bookmarks_or_not(self, progress_seconds: int, most: float) -> None:
        hours, version, requests = 200, 11, 0
        watching = Watching(list_watch.NODE_PERIODS)
        while watching.now < hours * 3600:
            requests += 1
            request = watching.state.next_request()
            if isinstance(request, list_watch.ListRequest):
                watching.state.add_page(json.dumps({"metadata": {"resourceVersion": str(version)}}).encode())
                continue
            watching.state.open()
            end = watching.now + float(request.query["timeoutSeconds"])
            error: errors.ApiError | None = None
            silent_from = watching.now
            for at in bookmark_times(watching.now, end, progress_seconds):
                if at - silent_from > request.silence_seconds:
                    break
                watching.now, silent_from, version = at, at, version + 1
                list(watching.state.add_chunk(json.dumps(bookmark(version)).encode() + b"\n"))
            if end - silent_from > request.silence_seconds:
                watching.now, error = silent_from + request.silence_seconds, errors.SilentError("nothing came")
            else:
                watching.now = end
            watching.now += watching.state.end_attempt(error)
        assert requests / hours <= most


def bookmark_times(start: float, end: float, every: int) -> list[float]:
    """Each minute of the stream, from the first report of etcd's progress on; `every` 0: none."""
    if not every:
        return []
    progress = math.ceil(start / every) * every
    return [at for minute in range(1, int((end - start) / 60) + 1) if (at := start + minute * 60) >= progress]


def test_an_event_that_comes_again_and_again_is_no_progress() -> None:
    watching = Watching()
    assert [watching.watch(change(11)) for _ in range(4)] == [1, 2, 4, 8]
    assert watching.state.version == ""
    watching = Watching()
    assert [watching.watch(change(11 + number)) for number in range(5)] == [1] * 5


class TestSilence:
    def test_is_told_when_nothing_came_for_longer_than_a_new_connection_takes(self) -> None:
        watching = Watching()
        watching.state.next_request()
        watching.now += 130
        assert watching.state.silence == ""
        watching.now += 1
        assert watching.state.silence == f"watch of {PATH}: no response for 131 s"
        watching.state.end_attempt(errors.SilentError("nothing came"))
        watching.list(12)
        assert watching.state.silence == ""

    def test_ends_with_any_event_and_with_the_end_of_a_stream(self) -> None:
        watching = Watching()
        for event in (bookmark(11), change(12)):
            watching.now += 100
            watching.watch(event)
            assert watching.state.silent_seconds == 0
        watching.watch(100.0)
        assert watching.state.silent_seconds == 0

    def test_lasts_over_requests_that_get_no_response_in_time(self) -> None:
        watching = Watching()
        watching.watch(115.0, error=errors.SilentError("nothing came"))
        for _ in range(3):
            watching.state.next_request()
            watching.now += 15
            watching.state.end_attempt(errors.SilentError("nothing came"))
        assert watching.state.silent_seconds == 160

    def test_is_not_what_a_server_that_refuses_has_fallen_into(self) -> None:
        watching = Watching()
        for _ in range(200):
            watching.state.next_request()
            watching.now += watching.state.end_attempt(errors.UnavailableError("refused", retry_after=120))
        assert watching.state.silent_seconds == 0

    def test_does_not_begin_before_the_first_request(self) -> None:
        now = [0.0]
        state = list_watch.ListWatch(list_watch.Collection(PATH), read, clock=lambda: now[0])
        now[0] += 5000
        assert (state.silent_seconds, state.silence) == (0, "")


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", errors.NotFoundError),
        (401, "Unauthorized", errors.ForbiddenError),
        (403, "Forbidden", errors.ForbiddenError),
        (409, "Conflict", errors.ConflictError),
        (410, "Gone", errors.GoneError),
        (0, "Expired", errors.GoneError),
        (422, "Invalid", errors.InvalidError),
        (429, "TooManyRequests", errors.UnavailableError),
        (500, "InternalError", errors.UnavailableError),
    ],
)
def test_a_status_says_which_error_it_is(code: int, reason: str, kind: type[errors.ApiError]) -> None:
    error = errors.from_status("GET /x", errors.Status(code, reason, "some text"), 3.0)
    assert type(error) is kind
    assert "GET /x" in str(error) and "some text" in str(error)
    assert getattr(error, "retry_after", 3.0) == 3.0


def test_it_costs_no_client_in_memory() -> None:
    code = "import sys, oneagent.common.kubernetes.list_watch; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"httpx", "httpx2", "aiohttp", "kubernetes", "lightkube", "yaml", "asyncio"} & set(loaded)


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.lists(st.text("a\u2028é ", max_size=5)), st.lists(st.integers(0, 60)))
def test_lines_come_whole_however_the_stream_is_cut_into_chunks(texts: list[str], cuts: list[int]) -> None:
    expected = [json.dumps(text, ensure_ascii=False).encode() for text in texts]
    whole = b"".join(line + b"\n" for line in expected) + b'"a rest'
    lines = list_watch.Lines()
    chunks = (whole[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(whole)]))
    assert [line for chunk in chunks for line in lines.add(chunk)] == expected


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
