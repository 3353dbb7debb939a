"""Churn during an upgrade: creates pods and DynaKubes, and records the responses."""

from __future__ import annotations

import itertools
import threading
from types import TracebackType
from typing import Any, Final, Self

import yaml

from tests.cluster.kubectl import Kubectl, KubectlError
from tests.e2e import manifests
from tests.e2e.story.administrator import SHOP

_PAUSE_SECONDS: Final = 0.5


class PodArrivals:
    """While in use as a context manager: a pod, and a DynaKube by a dry run, one after the other."""

    def __init__(self, kubectl: Kubectl, dynakube: dict[str, Any]) -> None:
        self.pods: list[str] = []
        self.refusals: list[str] = []
        self._kubectl, self._dynakube = kubectl, yaml.safe_dump(dynakube)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        for number in itertools.count():
            name = f"arrival-{number}"
            try:
                self._kubectl.apply(manifests.application(name, SHOP))
                self.pods.append(name)
                self._kubectl("apply", "--dry-run=server", "-f", "-", stdin=self._dynakube)
            except KubectlError as error:
                self.refusals.append(str(error))
            if self._stop.wait(_PAUSE_SECONDS):
                return
