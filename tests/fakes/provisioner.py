"""A real provisioner with a fake DynaKube source, in this process, or as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
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
from oneagent.common.identifiers import DynaKubeName, StoreKey, Version, agent_version
from oneagent.common.kubernetes import errors
from oneagent.common.node_lease import NodeReport
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.provisioner import main
from oneagent.csi_driver.store import AgentStore, integrity
from tests.fakes import ports, tenant

OTHER = Version("1.279.0.20231001-000000")
"""A second version; newer than `packages.VERSION`."""


def eventually(condition: Callable[[], object], seconds: float = 20.0, what: object = "it") -> None:
    """Wait until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what() if callable(what) else what} did not happen in time")
        time.sleep(0.01)


def manifest(
    name: str = "demo",
    api_url: str = "",
    *,
    version: str = "",
    decided: str = "",
    image: str = "",
    pull_policy: str = "",
    mode: str = "cloudNativeFullStack",
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Return a DynaKube object; the user pins `version`, the operator has decided `decided`."""
    own = {"codeModulesVersion": version, "codeModulesImage": image, "codeModulesImagePullPolicy": pull_policy}
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


class FakeDynaKubeSource:
    """A `DynaKubeSource` in memory, which records Events."""

    operator_wait_seconds: float | None = None

    def __init__(self) -> None:
        self.secrets: dict[str, Mapping[str, str]] = {}
        self.config_maps: dict[str, Mapping[str, str]] = {}
        self.events: list[tuple[str, str, str, str]] = []
        """Name of the object, kind, reason, message."""
        self.reports: list[NodeReport] = []
        self.unavailable = False
        """Secrets cannot be read, as without an API server."""
        self._dynakubes: dict[str, dynakube.DynaKube | str] = {}
        self._changed: Callable[[dynakube_sources.Snapshot], None] | None = None
        self._lock = threading.Lock()

    def put(self, *objects: dict[str, Any], token: str = tenant.TOKEN) -> None:
        """Add or replace DynaKubes, each with a Secret for its token unless there is one."""
        for obj in objects:
            name = obj["metadata"]["name"]
            self.secrets.setdefault(name, {"apiToken": token})
            self._dynakubes[name] = dynakube.from_object(obj)
        self._report()

    def put_invalid(self, name: str, problem: str = "spec.x: wrong") -> None:
        self._dynakubes[name] = problem
        self._report()

    def remove(self, name: str) -> None:
        del self._dynakubes[name]
        self._report()

    def _report(self) -> None:
        with self._lock:
            if self._changed:
                valid = {DynaKubeName(k): v for k, v in self._dynakubes.items() if not isinstance(v, str)}
                self._changed(
                    dynakube_sources.Snapshot(valid, {k: v for k, v in self._dynakubes.items() if isinstance(v, str)})
                )

    def run(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        self._changed = changed
        self._report()
        stop.wait()
        self._changed = None

    def secret(self, name: str) -> Mapping[str, str]:
        if self.unavailable:
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
        related: dynakube_sources.PodReference | None = None,
    ) -> None:
        self.events.append((about.name, kind, reason, message))

    def report(self, report: NodeReport) -> None:
        self.reports.append(report)

    def states(self, name: str = "demo") -> list[str]:
        """The states of a DynaKube in the reports, without repeats."""
        states = [kube.state for report in self.reports for kube in report.dynakubes if kube.name == name]
        return [state for index, state in enumerate(states) if not index or states[index - 1] != state]

    def silent_seconds(self) -> float:
        return 0.0


class Provisioning:
    """A provisioner in this process, which runs inside its context."""

    def __init__(
        self,
        root: Path,
        source: dynakube_sources.DynaKubeSource,
        *flags: str,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        self.data = DataDir(root)
        self.data.create()
        self.store = AgentStore(self.data)
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
        """Return a DynaKube's row in the database."""
        rows = {row["name"]: row for row in table(self.data, "dynakubes")}
        return DesiredState(**rows[name]) if name in rows else None

    def condition(self, name: str = "demo") -> str:
        row = self.row(name)
        return row.condition if row else "no row"

    def is_ready(self, version: str, name: str = "demo") -> bool:
        row = self.row(name)
        if row is None or (agent_version(row.version), row.condition) != (version, ""):
            return False
        return row.good_version == row.version and self.store.has(row.version)

    def key(self, name: str = "demo") -> StoreKey:
        """Return the store's key of a DynaKube's version."""
        row = self.row(name)
        assert row is not None
        return StoreKey(row.version)

    def layer(self, name: str = "demo") -> str:
        """Return the text of the config layer of a DynaKube's next pod."""
        row = self.row(name)
        assert row is not None
        return (self.data.config_layer(row.tenant, row.layer) / "agent/conf/ruxitagentproc.conf").read_text()

    def wait_until(self, condition: Callable[[], object], seconds: float = 20.0, what: object = "it") -> None:
        """Wait until the condition holds; the provisioner reconciles without pauses meanwhile."""

        def woken() -> object:
            self.provisioner.wake()
            return condition()

        eventually(woken, seconds, what)

    def versions(self) -> list[Version]:
        """Return the versions in the store, as their sources name them."""
        return [agent_version(key) for key in self.store.versions()]

    def collect(self) -> list[Version]:
        """Collect garbage; return the removed versions, as their sources name them."""
        return [agent_version(key) for key in self.provisioner.collector.collect()]


def table(data: DataDir, name: str) -> list[dict[str, Any]]:
    """Return the rows of a table on disk; none without a database."""
    if not data.database.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{data.database}?mode=ro", uri=True, timeout=5)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]


def list_corrupt(data: DataDir) -> list[str]:
    """Versions in the store that are not what their manifests say. Empty, whatever has happened.

    A collector that runs may remove a version before its turn.
    """
    versions = AgentStore(data).versions()
    reports = integrity.check(data, versions, bytes_per_second=None) if versions else ()
    good = {integrity.State.OK, integrity.State.MISSING}
    return [f"{report.name}: {report}" for report in reports if report.state not in good]


class Process:
    """The provisioner's command on a data directory, with DynaKubes from files by default."""

    def __init__(self, place: Path, *flags: str, module: str = "oneagent.csi_driver.provisioner.main") -> None:
        self.data = DataDir(place / "data")
        self.data.create()
        self.dynakubes = place / "dynakubes"
        self.dynakubes.mkdir(exist_ok=True)
        self.log = place / "provisioner.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", module, f"--data-dir={self.data.root}", "--log-format=text"]
        source = ("--dynakube-source=directory", f"--dynakubes={self.dynakubes}")
        self._metrics = ports.free()
        more = (f"--metrics-address=127.0.0.1:{self._metrics}", "--disk-reserve=0", "--download-jitter=0")
        self._flags = (*source, "--gc-interval=500ms", *more, *flags)

    def set_dynakubes(self, *objects: dict[str, Any], token: str = tenant.TOKEN) -> None:
        """Replace all DynaKubes, by one rename."""
        names = [obj["metadata"]["name"] for obj in objects]
        secrets = [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"apiToken": token}}
            for name in names
        ]
        new = self.dynakubes / "all.new"
        new.write_text("---\n".join(f"{json.dumps(obj)}\n" for obj in (*objects, *secrets)) or "---\n")
        new.rename(self.dynakubes / "all.yaml")

    def start(self, **environment: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *self._flags], stdout=log, stderr=log, env={**os.environ, **environment}
            )

    def collections(self) -> float:
        """Runs of the garbage collector since the start."""
        _, page = ports.get(self._metrics, "/metrics")
        return sum(float(count) for count in re.findall(r"^oneagent_csi_gc_runs_total\{.*\} (\S+)", page, re.MULTILINE))

    def await_collection(self) -> None:
        """Wait until the garbage collector has run once from beginning to end; one run may be under way now."""
        before = self.collections()
        eventually(lambda: self.collections() >= before + 2, what="the garbage collector has run")

    def kill(self) -> None:
        """Send SIGKILL: no cleanup runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(40)

    def wait_for_exit(self) -> int:
        """Wait until the process ends by itself; return its exit code."""
        assert self.process is not None
        return self.process.wait(20)

    def versions(self) -> list[Version]:
        """Return the versions in the store, as their sources name them."""
        return [agent_version(key) for key in AgentStore(self.data).versions()]

    def key(self, name: str = "demo") -> StoreKey:
        """Return the store's key of a DynaKube's version."""
        return StoreKey(Version(self.row(name)["version"]))

    def row(self, name: str = "demo") -> dict[str, Any]:
        return next((row for row in table(self.data, "dynakubes") if row["name"] == name), {})

    def states(self) -> dict[str, str]:
        """Return the state of each version in the versions table."""
        return {agent_version(row["version"]): row["state"] for row in table(self.data, "versions")}

    def is_ready(self, version: str, name: str = "demo") -> bool:
        """Return True if a version is installed according to all rows."""
        row = self.row(name)
        return (agent_version(row.get("version", "")), row.get("condition")) == (version, "") and self.states().get(
            version
        ) == "ready"

    def await_ready(self, version: str, name: str = "demo", seconds: float = 15) -> None:
        eventually(
            lambda: self.is_ready(version, name),
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
