"""What is reported of changes adds up to the objects of the server, whatever happens to lists and watches."""

from __future__ import annotations

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common.kubernetes import errors, list_watch
from tests.unit.common.kubernetes.server_model import PATH, Client, Server, read, requests, synced

NAMES = "abcd"


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
