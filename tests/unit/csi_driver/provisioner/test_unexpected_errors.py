"""An error that nobody has expected is in the condition within seconds, is retried, and stops nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from oneagent.common.dynakube import DynaKube
from oneagent.common.identifiers import DynaKubeName
from oneagent.csi_driver.dynakube_sources import Snapshot
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, manifest


class OddSecrets(FakeDynaKubeSource):
    """Fails to read a DynaKube's Secret a number of times."""

    failures = 1

    def secret(self, name: str) -> Mapping[str, str]:
        if name == "odd" and self.failures:
            raise TypeError("of a certificate")
        return super().secret(name)


class OddSnapshot(FakeDynaKubeSource):
    """Reports something that is no DynaKube until `mended` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.mended = threading.Event()

    def run(self, changed: Callable[[Snapshot], None], stop: threading.Event) -> None:
        changed(Snapshot({DynaKubeName("demo"): cast("DynaKube", cast("Any", object()))}, {}))
        self.mended.wait(30)
        super().run(changed, stop)


def test_of_a_poll(tmp_path: Path, server: double.Tenant) -> None:
    source = OddSecrets()
    source.put(
        manifest("odd", server.api_url, annotations={"poll-interval": "100ms"}), manifest("demo", server.api_url)
    )
    with Provisioning(tmp_path, source) as p:
        p.wait_until(lambda: "TypeError: of a certificate" in p.condition("odd"), 5, lambda: p.condition("odd"))
        p.wait_until(lambda: p.is_ready(packages.VERSION))
        source.failures = 0
        p.wait_until(lambda: p.is_ready(packages.VERSION, "odd"), what=lambda: p.condition("odd"))


def test_of_a_whole_run(tmp_path: Path, server: double.Tenant) -> None:
    source = OddSnapshot()
    source.put(manifest("demo", server.api_url))
    with Provisioning(tmp_path, source) as p:
        p.wait_until(lambda: "internal error (AttributeError)" in p.condition(), 5, p.condition)
        source.mended.set()
        p.wait_until(lambda: p.is_ready(packages.VERSION), 60, p.condition)
