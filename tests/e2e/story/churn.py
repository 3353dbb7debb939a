"""Churn during an upgrade: creates pods and DynaKubes, and records the responses."""

from __future__ import annotations

import abc
import itertools
import threading
from types import TracebackType
from typing import Any, Final, Self

import yaml

from oneagent.common.injection import contract
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.e2e import manifests
from tests.e2e.story.administrator import SHOP

_PAUSE_SECONDS: Final = 0.5
_DRY_RUN_PAUSE_SECONDS: Final = 0.05


class _Churn(abc.ABC):
    """While in use as a context manager: one step after the other, in a thread of its own."""

    def __init__(self, pause_seconds: float) -> None:
        self._pause_seconds = pause_seconds
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
            self._step(number)
            if self._stop.wait(self._pause_seconds):
                return

    @abc.abstractmethod
    def _step(self, number: int) -> None: ...


class PodArrivals(_Churn):
    """A pod, and a DynaKube by a dry run."""

    def __init__(self, kubectl: Kubectl, dynakube: dict[str, Any]) -> None:
        super().__init__(_PAUSE_SECONDS)
        self.pods: list[str] = []
        self.refusals: list[str] = []
        self._kubectl, self._dynakube = kubectl, yaml.safe_dump(dynakube)

    def _step(self, number: int) -> None:
        name = f"arrival-{number}"
        try:
            self._kubectl.apply(manifests.application(name, SHOP))
            self.pods.append(name)
            self._kubectl("apply", "--dry-run=server", "-f", "-", stdin=self._dynakube)
        except KubectlError as error:
            self.refusals.append(str(error))


class DryRuns(_Churn):
    """Pods by a dry run, ten and more each second, so that each moment of a webhook's replacement has one."""

    def __init__(self, control_plane: ControlPlane) -> None:
        super().__init__(_DRY_RUN_PAUSE_SECONDS)
        self.pods = 0
        self.failures: list[str] = []
        """What became of pods that were refused or are not injected."""
        self._control_plane = control_plane

    def _step(self, number: int) -> None:
        path = f"/api/v1/namespaces/{SHOP}/pods?dryRun=All"
        self.pods += 1
        try:
            pod = self._control_plane.create(path, manifests.application(f"dry-run-{number}", SHOP))
        except OSError as error:
            self.failures.append(str(error))
            return
        if contract.BIN_VOLUME not in {volume["name"] for volume in pod["spec"].get("volumes", ())}:
            self.failures.append(f"not injected: {pod['metadata'].get('annotations')}")
