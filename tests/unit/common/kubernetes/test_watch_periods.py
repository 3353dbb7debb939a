"""How long watches are asked for, with bookmarks and without, and how many requests an idle node sends."""

from __future__ import annotations

import json
import math

import pytest

from oneagent.common.kubernetes import errors, list_watch
from tests.unit.common.kubernetes.watching import Watching, bookmark, change, silence


def test_a_server_that_sends_bookmarks_is_asked_to_hold_watches_for_longer() -> None:
    watching = Watching()
    assert 75 <= watching.seconds() <= 100
    watching.watch(60.0, bookmark(11))
    assert 300 <= watching.seconds() <= 400
    watching.watch(60.0, change(12))
    assert 300 <= watching.seconds() <= 400, "it was cut before a bookmark could come"
    watching.watch(80.0, change(13))
    assert 75 <= watching.seconds() <= 100


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
