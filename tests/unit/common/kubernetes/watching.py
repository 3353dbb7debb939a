"""The core of list and watch with its list, fed with events by hand, and a clock that tests move."""

from __future__ import annotations

import json
from typing import Any

from oneagent.common import backoff
from oneagent.common.kubernetes import errors, list_watch
from tests.unit.common.kubernetes.server_model import PATH, read


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


def silence(watching: Watching) -> float:
    request = watching.state.next_request()
    assert isinstance(request, list_watch.WatchRequest)
    return request.silence_seconds
