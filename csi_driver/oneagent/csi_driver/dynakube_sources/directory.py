"""DynaKubes, Secrets and ConfigMaps from YAML files in a directory, for a node without an API server.

Files match `*.yaml` or `*.yml`, hold any number of documents each, and are read in the order of their names.
`<secret>.token` is a Secret with only an `apiToken`. A file counts as a whole or not at all. While it cannot be used
(half written, empty, not YAML, a DynaKube with an impossible field) its last-good state holds, and the error is
reported with file and line. A deleted file deletes its DynaKubes. While the directory is missing or unreadable the
last state holds. If two documents define the same DynaKube, the first counts and the second is reported.

watchfiles only shortens the wait: the files are polled at least once a second. So nothing depends on the events of
an editor's rename, a ConfigMap's `..data` switch, a network file system, or a replaced directory.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import watchfiles

from oneagent.common import agents, dynakube, identifiers, logs
from oneagent.common.kubernetes import errors, fields
from oneagent.common.node_lease import NodeReport
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.dynakube_sources import yaml_documents

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 1.0
_SETTLED_SECONDS: Final = 0.02
"""A file that was written more recently may still change, even within one tick of its time stamp."""
_LONGEST_FILE: Final = 4 * 1024 * 1024
_LONGEST_TOKEN: Final = 64 * 1024

_Stamp = tuple[int, int, int, int]
"""Device, inode, size, modification time: equal while a file is the same and unchanged."""


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    stamp: _Stamp | None
    content: yaml_documents.Content
    error: yaml_documents.DocumentError | None = None


class DirectorySource:
    """A `DynaKubeSource`; `run` belongs to one thread, the rest may be called from any."""

    operator_wait_seconds: float | None = None

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._polled_at = clock()
        self._files: Mapping[str, _File] = {}
        self._reported: dynakube_sources.Snapshot | None = None

    def run(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        missing = False
        while not stop.is_set():
            before = _stamp(self._directory)
            if before is None:
                if not missing:
                    log.warning("directory of DynaKubes missing", extra=logs.fields(directory=self._directory))
                self._polled_at = self._clock()
                stop.wait(_POLL_SECONDS / 2)
            else:
                self._poll(changed)
                self._watch(before, changed, stop)
            missing = before is None

    def _watch(
        self, directory: _Stamp, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event
    ) -> None:
        """Poll after each change, while the path leads to the same directory."""
        try:
            for _ in watchfiles.watch(
                self._directory,
                watch_filter=None,
                debounce=500,
                step=100,
                rust_timeout=int(_POLL_SECONDS * 1000),
                yield_on_timeout=True,
                stop_event=stop,
                recursive=False,
                raise_interrupt=False,
            ):
                self._poll(changed)
                now = _stamp(self._directory)
                if now is None or now[:2] != directory[:2] or stop.is_set():
                    return
        except (OSError, RuntimeError) as error:
            # The directory was deleted, or this node has no inotify watches left.
            log.warning("directory watch failed", extra=logs.fields(directory=self._directory, error=error))
            stop.wait(_POLL_SECONDS)

    def secret(self, name: str) -> Mapping[str, str]:
        self._poll_once()
        for file in self._files.values():
            if name in file.content.secrets:
                return file.content.secrets[name]
        if not fields.is_dns_name(name):
            raise errors.NotFoundError(f"{name[:80]!r} cannot be the name of a secret")
        path = self._directory / f"{name}.token"
        try:
            token = _read(path, _LONGEST_TOKEN).decode("ascii").strip()
        except FileNotFoundError:
            raise errors.NotFoundError(
                f"no secret {name} in {self._directory}: add a Secret document or the file {path.name}"
            ) from None
        except PermissionError as error:
            raise errors.ForbiddenError(f"{path} cannot be read: {error.strerror}") from error
        except (OSError, ValueError):
            raise errors.UnavailableError(f"{path} does not hold a token") from None
        if not token:
            raise errors.UnavailableError(f"{path} is empty")
        return {"apiToken": token}

    def config_map(self, name: str) -> Mapping[str, str]:
        self._poll_once()
        for file in self._files.values():
            if name in file.content.config_maps:
                return file.content.config_maps[name]
        raise errors.NotFoundError(f"no ConfigMap {name[:80]} in {self._directory}: add a ConfigMap document")

    def event(
        self,
        about: dynakube.DynaKube | dynakube_sources.PodReference,
        kind: dynakube_sources.Kind,
        reason: str,
        message: str,
        related: dynakube_sources.PodReference | None = None,
    ) -> None:
        details = logs.fields(object=f"{about.namespace}/{about.name}", reason=reason, text=message)
        log.log(logging.WARNING if kind == "Warning" else logging.INFO, "event", extra=details)

    def report(self, report: NodeReport) -> None:
        """Do nothing: no operator reads it, and `oneagent-csi status` shows the same."""

    def silent_seconds(self) -> float:
        return self._clock() - self._polled_at

    def _poll_once(self) -> None:
        if not self._files:
            self._files = _read_files(self._directory, {}) or {}

    def _poll(self, changed: Callable[[dynakube_sources.Snapshot], None]) -> None:
        self._polled_at = self._clock()
        files = _read_files(self._directory, self._files)
        if files is None:
            return
        self._files = files  # Replaced as a whole: other threads see one state or the next.
        snapshot = _snapshot(files)
        if snapshot != self._reported:
            for name, error in snapshot.newly_invalid(self._reported):
                log.error("%s not usable", agents.kind_of_object(name), extra=logs.fields(dynakube=name, error=error))
            self._reported = snapshot
            changed(snapshot)


def _read_files(directory: Path, known: Mapping[str, _File]) -> Mapping[str, _File] | None:
    """Read the YAML files, by name; `None` if the directory cannot be read.

    Hidden ones belong to an editor, or to a mounted ConfigMap.
    """
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        log.warning("directory read failed", extra=logs.fields(directory=directory, error=error))
        return None
    wanted = (p for p in paths if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    files = ((path.name, _file(path, known.get(path.name))) for path in wanted)
    return {name: file for name, file in files if file is not None}


def _file(path: Path, known: _File | None) -> _File | None:
    """Read a file if it has changed; `None` if it does not exist."""
    stamp = _stamp(path)
    if known is not None and stamp is not None and (stamp == known.stamp or _is_young(stamp)):
        return known
    usable = known.content if known else yaml_documents.Content()
    stored_stamp = None if stamp is None or _is_young(stamp) else stamp
    try:
        return _File(stored_stamp, yaml_documents.parse(_read(path, _LONGEST_FILE)))
    except yaml_documents.DocumentError as error:
        return _File(stored_stamp, usable, error)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _File(None, usable, yaml_documents.DocumentError(1, f"cannot be read: {error.strerror}"))


def _is_young(stamp: _Stamp) -> bool:
    return abs(time.time() - stamp[3] / 1e9) < _SETTLED_SECONDS


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(0, f"is larger than {limit} bytes", str(path))
    return data


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _snapshot(files: Mapping[str, _File]) -> dynakube_sources.Snapshot:
    usable: dict[identifiers.DynaKubeName, dynakube.DynaKube] = {}
    invalid: dict[str, str] = {}
    defined_at: dict[str, str] = {}
    for name, file in files.items():
        if file.error is not None:
            place = f"{name}:{file.error.line}"
            invalid[file.error.about or place] = f"{place}: {file.error}"
        for line, found in file.content.dynakubes:
            place = f"{name}:{line}"
            if found.name in usable:
                named = agents.describe_object(found.name)
                invalid[place] = f"{place}: {named} is already defined in {defined_at[found.name]}; remove one"
            else:
                usable[found.name], defined_at[found.name] = found, place
    return dynakube_sources.Snapshot(usable, invalid)
