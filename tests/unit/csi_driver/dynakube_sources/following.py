"""A source that runs in a thread, and what it has reported so far."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from oneagent.csi_driver import dynakube_sources

PATIENCE = 20.0


class Following:
    def __init__(self, source: dynakube_sources.DynaKubeSource) -> None:
        self.source = source
        self.reports: list[dynakube_sources.Snapshot] = []
        self.stop = threading.Event()
        self.error: Exception | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.source.run(self._changed, self.stop)
        except Exception as error:  # noqa: BLE001  # raised again by `following`
            self.error = error

    def _changed(self, snapshot: dynakube_sources.Snapshot) -> None:
        with self._news:
            self.reports.append(snapshot)
            self._news.notify_all()

    def start(self) -> None:
        self._thread.start()

    def until(self, wanted: Callable[[dynakube_sources.Snapshot], object]) -> dynakube_sources.Snapshot:
        """The last report, as soon as it is as wanted."""
        with self._news:
            done = self._news.wait_for(lambda: self.reports and wanted(self.reports[-1]), PATIENCE)
            assert done, f"last report: {self.reports[-1:]}; {self.error!r}"
            return self.reports[-1]

    def until_names(self, *names: str) -> dynakube_sources.Snapshot:
        return self.until(lambda snapshot: set(snapshot.dynakubes) == set(names))

    def stopped_after(self) -> float:
        """Seconds that it takes to stop."""
        began = time.monotonic()
        self.stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return time.monotonic() - began


@contextlib.contextmanager
def following(source: dynakube_sources.DynaKubeSource) -> Iterator[Following]:
    found = Following(source)
    found.start()
    try:
        yield found
    finally:
        found.stopped_after()
    if found.error:
        raise found.error


def eventually(condition: Callable[[], Any]) -> Any:
    """What the condition gives, as soon as that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def manifest(name: str = "prod", version: str = "", **spec: Any) -> dict[str, Any]:
    obj: dict[str, Any] = {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {"name": name, "namespace": "dynatrace"},
        "spec": {
            "apiUrl": "https://abc12345.live.dynatrace.com/api",
            "oneAgent": {"cloudNativeFullStack": {}},
            **spec,
        },
    }
    if version:
        obj["status"] = {"codeModules": {"version": version}}
    return obj
