"""A provisioner to prove things with: in this process, fed by hand, or as a process of its own.

`Desk` is a source of DynaKubes that a test writes to and whose Events it reads; all else is the real thing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from oneagent.common import dynakube
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.kubernetes import errors
from oneagent.common.unpack import file_manifest
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.provisioner import main
from oneagent.csi_driver.store import AgentStore
from tests.fakes import tenant

OTHER = Version("1.279.0.20231001-000000")
"""A second version; newer than `packages.VERSION`."""


def eventually(condition: Callable[[], object], seconds: float = 20.0, what: object = "it") -> None:
    """Wait until something is so; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what() if callable(what) else what} never came to be so")
        time.sleep(0.01)


def manifest(
    name: str = "demo",
    api_url: str = "",
    *,
    version: str = "",
    decided: str = "",
    image: str = "",
    mode: str = "cloudNativeFullStack",
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A DynaKube object; `version` is what the user pins, `decided` what the operator says."""
    own = {"codeModulesVersion": version, "codeModulesImage": image}
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {
            "name": name,
            "namespace": "dynatrace",
            "uid": f"uid-{name}",
            "annotations": {f"feature.dynatrace.com/{key}": value for key, value in (annotations or {}).items()},
        },
        "spec": {
            **({"apiUrl": api_url} if api_url else {}),
            "oneAgent": {mode: {key: value for key, value in own.items() if value}},
            **spec,
        },
        "status": {"codeModules": {"version": decided}} if decided else {},
    }


class Desk:
    """A `DynaKubeSource`: what a test lays on it is the truth. Keeps the Events it is told."""

    def __init__(self) -> None:
        self.secrets: dict[str, Mapping[str, str]] = {}
        self.config_maps: dict[str, Mapping[str, str]] = {}
        self.events: list[tuple[str, str, str, str]] = []
        """Name of what it is about, kind, reason, message."""
        self.away = False
        """Secrets can't be had, as while the API server is away."""
        self._found: dict[str, dynakube.DynaKube | str] = {}
        self._changed: Callable[[dynakube_sources.Snapshot], None] | None = None
        self._lock = threading.Lock()

    def put(self, *objects: dict[str, Any], token: str = tenant.TOKEN) -> None:
        """DynaKubes, each with a token in a secret of its name unless there is one."""
        for obj in objects:
            name = obj["metadata"]["name"]
            self.secrets.setdefault(name, {"apiToken": token})
            self._found[name] = dynakube.from_object(obj)
        self._report()

    def spoil(self, name: str, problem: str = "spec.x: wrong") -> None:
        self._found[name] = problem
        self._report()

    def remove(self, name: str) -> None:
        del self._found[name]
        self._report()

    def _report(self) -> None:
        with self._lock:
            if self._changed:
                good = {DynaKubeName(k): v for k, v in self._found.items() if not isinstance(v, str)}
                self._changed(
                    dynakube_sources.Snapshot(good, {k: v for k, v in self._found.items() if isinstance(v, str)})
                )

    def run(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        self._changed = changed
        self._report()
        stop.wait()
        self._changed = None

    def secret(self, name: str) -> Mapping[str, str]:
        if self.away:
            raise errors.UnavailableError("the API server cannot be reached")
        if name not in self.secrets:
            raise errors.NotFoundError(f"no secret {name}")
        return self.secrets[name]

    def config_map(self, name: str) -> Mapping[str, str]:
        if name not in self.config_maps:
            raise errors.NotFoundError(f"no ConfigMap {name}")
        return self.config_maps[name]

    def event(
        self,
        about: dynakube.DynaKube | dynakube_sources.PodReference,
        kind: dynakube_sources.Kind,
        reason: str,
        message: str,
    ) -> None:
        self.events.append((about.name, kind, reason, message))

    def is_alive(self) -> bool:
        return True


class Provisioning:
    """A provisioner in this process, at work while in use as a context manager."""

    def __init__(
        self,
        root: Path,
        source: dynakube_sources.DynaKubeSource,
        *flags: str,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self.folder = DataDir(root)
        self.folder.create()
        self.store = AgentStore(self.folder)
        config = main.parse([f"--data-dir={root}", "--gc-interval=1h", "--download-jitter=0", *flags])
        self.provisioner, self.metrics = main.build(config, source, failpoint)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.provisioner.run, args=(self._stop,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.provisioner.wake()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def row(self, name: str = "demo") -> DesiredState | None:
        """What the database says that a DynaKube wants."""
        rows = {row["name"]: row for row in table(self.folder, "dynakubes")}
        return DesiredState(**rows[name]) if name in rows else None

    def condition(self, name: str = "demo") -> str:
        row = self.row(name)
        return row.condition if row else "no row"

    def ready(self, version: str, name: str = "demo") -> bool:
        row = self.row(name)
        if row is None or (row.version, row.condition) != (version, ""):
            return False
        return row.good_version == version and self.store.has(row.version)

    def layer(self, name: str = "demo") -> str:
        """The text of the config layer that a DynaKube's next pod gets."""
        row = self.row(name)
        assert row is not None
        return (self.folder.config_layer(row.tenant, row.layer) / "agent/conf/ruxitagentproc.conf").read_text()

    def until(self, condition: Callable[[], object], seconds: float = 20.0, what: object = "it") -> None:
        """Wait until something is so, without the pauses between two looks of the provisioner's."""

        def woken() -> object:
            self.provisioner.wake()
            return condition()

        eventually(woken, seconds, what)

    def collect(self) -> list[Version]:
        return self.provisioner.collector.collect()


def table(folder: DataDir, name: str) -> list[dict[str, Any]]:
    """A table as it is on disk; empty while there is none."""
    if not folder.database.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{folder.database}?mode=ro", uri=True, timeout=5)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]


def list_corrupt(folder: DataDir) -> list[str]:
    """Versions in the store that are not what their manifests say. Empty, whatever has happened."""
    found = []
    for version in AgentStore(folder).versions():
        expected = file_manifest.Manifest.load(folder.manifest(version))
        if findings := file_manifest.verify(Path(folder.agent(version)), expected):
            found.append(f"{version}: {findings[:3]}")
    return found


class Process:
    """The provisioner's command on a data folder, with DynaKubes from a folder unless told otherwise."""

    def __init__(self, place: Path, *flags: str, module: str = "oneagent.csi_driver.provisioner") -> None:
        self.folder = DataDir(place / "data")
        self.folder.create()
        self.dynakubes = place / "dynakubes"
        self.dynakubes.mkdir(exist_ok=True)
        self.log = place / "provisioner.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", module, f"--data-dir={self.folder.root}", "--log-format=text"]
        source = ("--dynakube-source=directory", f"--dynakubes={self.dynakubes}")
        self._flags = (*source, "--gc-interval=500ms", "--disk-reserve=0", "--download-jitter=0", *flags)

    def want(self, *objects: dict[str, Any], token: str = tenant.TOKEN) -> None:
        """Have these DynaKubes and no others, by one rename."""
        names = [obj["metadata"]["name"] for obj in objects]
        secrets = [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"apiToken": token}}
            for name in names
        ]
        fresh = self.dynakubes / "all.new"
        fresh.write_text("---\n".join(f"{json.dumps(obj)}\n" for obj in (*objects, *secrets)) or "---\n")
        fresh.rename(self.dynakubes / "all.yaml")

    def start(self, **environment: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *self._flags], stdout=log, stderr=log, env={**os.environ, **environment}
            )

    def kill(self) -> None:
        """SIGKILL: nothing can be tidied up."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(40)

    def ended(self) -> int:
        """Wait for the process to end by itself; its exit code."""
        assert self.process is not None
        return self.process.wait(20)

    def versions(self) -> list[Version]:
        return AgentStore(self.folder).versions()

    def row(self, name: str = "demo") -> dict[str, Any]:
        return next((row for row in table(self.folder, "dynakubes") if row["name"] == name), {})

    def states(self) -> dict[str, str]:
        """The versions table: version and state."""
        return {row["version"]: row["state"] for row in table(self.folder, "versions")}

    def ready(self, version: str, name: str = "demo") -> bool:
        """Whether a version is installed, and all rows say so."""
        row = self.row(name)
        return (row.get("version"), row.get("condition")) == (version, "") and self.states().get(version) == "ready"

    def await_ready(self, version: str, name: str = "demo", seconds: float = 15) -> None:
        eventually(
            lambda: self.ready(version, name),
            seconds,
            lambda: f"version {version} for {name} ({self.row(name)}, {self.states()}):\n{self.log.read_text()}",
        )


@contextlib.contextmanager
def running(place: Path, *flags: str) -> Iterator[Process]:
    """A provisioner's process, killed at the end."""
    process = Process(place, *flags)
    process.start()
    try:
        yield process
    finally:
        process.kill()
