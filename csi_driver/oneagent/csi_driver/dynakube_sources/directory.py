"""DynaKubes, secrets and ConfigMaps from YAML files in a folder: for a node without an API server.

`*.yaml` and `*.yml`, several documents in each, read in the order of their names; `<secret>.token` is a
secret with nothing but an `apiToken`. A file counts whole or not at all: while it cannot be used (half
written, empty, garbage, a DynaKube with an impossible field) its last good state holds, and the error is
reported with file and line. A file that is gone takes its DynaKubes with it; a folder that is gone or cannot
be read says nothing, so the last state holds. Of two documents that define the same DynaKube the first counts
and the second is reported.

watchfiles tells at once that something happened, but it is only asked to wake up: what counts is a look at
the files, taken at least once a second. So nothing depends on which events an editor's rename, a ConfigMap's
`..data` switch, a network file system or a folder that is replaced as a whole makes.
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

from oneagent.common import dynakube, identifiers, logs
from oneagent.common.kubernetes import errors, fields
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.dynakube_sources import yaml_documents

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
_SETTLED_SECONDS: Final = 0.02
"""A file that was written to more recently may be written to still, and within one tick of its time stamp."""
_ALIVE_SECONDS: Final = 60.0
_LONGEST_FILE: Final = 4 * 1024 * 1024
_LONGEST_TOKEN: Final = 64 * 1024

_Stamp = tuple[int, int, int, int]
"""Device, inode, size, modification time: equal as long as a file is the same one, untouched."""


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    stamp: _Stamp | None
    content: yaml_documents.Content
    error: yaml_documents.DocumentError | None = None


class FolderSource:
    """A `DynaKubeSource`; `run` belongs to one thread, the rest may be called from any."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._turned = clock()
        self._files: Mapping[str, _File] = {}
        self._reported: dynakube_sources.Snapshot | None = None

    def run(self, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event) -> None:
        missing = False
        while not stop.is_set():
            before = _stamp(self._folder)
            if before is None:
                if not missing:
                    log.warning("folder of DynaKubes is missing", extra=logs.facts(folder=self._folder))
                self._turned = self._clock()
                stop.wait(_LOOK_SECONDS / 2)
            else:
                self._look(changed)
                self._follow(before, changed, stop)
            missing = before is None

    def _follow(
        self, folder: _Stamp, changed: Callable[[dynakube_sources.Snapshot], None], stop: threading.Event
    ) -> None:
        """Look whenever something happens, for as long as the path leads to this very folder."""
        try:
            for _ in watchfiles.watch(
                self._folder,
                watch_filter=None,
                debounce=500,
                step=100,
                rust_timeout=int(_LOOK_SECONDS * 1000),
                yield_on_timeout=True,
                stop_event=stop,
                recursive=False,
                raise_interrupt=False,
            ):
                self._look(changed)
                now = _stamp(self._folder)
                if now is None or now[:2] != folder[:2] or stop.is_set():
                    return
        except (OSError, RuntimeError) as error:
            # Gone between two looks, or no inotify watches left on this node.
            log.warning("folder cannot be watched", extra=logs.facts(folder=self._folder, error=error))
            stop.wait(_LOOK_SECONDS)

    def secret(self, name: str) -> Mapping[str, str]:
        self._look_if_never()
        for file in self._files.values():
            if name in file.content.secrets:
                return file.content.secrets[name]
        if not fields.is_dns_name(name):
            raise errors.NotFoundError(f"{name[:80]!r} cannot be the name of a secret")
        path = self._folder / f"{name}.token"
        try:
            token = _read(path, _LONGEST_TOKEN).decode("ascii").strip()
        except FileNotFoundError:
            raise errors.NotFoundError(
                f"no secret {name} in {self._folder}: add a Secret document or the file {path.name}"
            ) from None
        except PermissionError as error:
            raise errors.ForbiddenError(f"{path} cannot be read: {error.strerror}") from error
        except (OSError, ValueError):
            raise errors.UnavailableError(f"{path} does not hold a token") from None
        if not token:
            raise errors.UnavailableError(f"{path} is empty")
        return {"apiToken": token}

    def config_map(self, name: str) -> Mapping[str, str]:
        self._look_if_never()
        for file in self._files.values():
            if name in file.content.config_maps:
                return file.content.config_maps[name]
        raise errors.NotFoundError(f"no ConfigMap {name[:80]} in {self._folder}: add a ConfigMap document")

    def event(
        self,
        about: dynakube.DynaKube | dynakube_sources.PodReference,
        kind: dynakube_sources.Kind,
        reason: str,
        message: str,
    ) -> None:
        facts = logs.facts(about=f"{about.namespace}/{about.name}", reason=reason, said=message)
        log.log(logging.WARNING if kind == "Warning" else logging.INFO, "event", extra=facts)

    def alive(self) -> bool:
        return self._clock() - self._turned < _ALIVE_SECONDS

    def _look_if_never(self) -> None:
        if not self._files:
            self._files = _load(self._folder, {}) or {}

    def _look(self, changed: Callable[[dynakube_sources.Snapshot], None]) -> None:
        self._turned = self._clock()
        files = _load(self._folder, self._files)
        if files is None:
            return
        self._files = files  # Replaced as a whole, so that other threads see one state or the next.
        snapshot = _snapshot(files)
        if snapshot != self._reported:
            for name, error in snapshot.newly_invalid(self._reported):
                log.error("DynaKube not usable", extra=logs.facts(dynakube=name, error=error))
            self._reported = snapshot
            changed(snapshot)


def _load(folder: Path, known: Mapping[str, _File]) -> Mapping[str, _File] | None:
    """The YAML files by name; `None` if the folder cannot be read.

    Hidden ones are an editor's, or the machinery of a mounted ConfigMap.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        log.warning("folder cannot be read", extra=logs.facts(folder=folder, error=error))
        return None
    wanted = (p for p in paths if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    files = ((path.name, _file(path, known.get(path.name))) for path in wanted)
    return {name: file for name, file in files if file is not None}


def _file(path: Path, known: _File | None) -> _File | None:
    """What a file says now; `None` if it is gone."""
    stamp = _stamp(path)
    if known is not None and stamp is not None and (stamp == known.stamp or _is_young(stamp)):
        return known
    good = known.content if known else yaml_documents.Content()
    kept = None if stamp is None or _is_young(stamp) else stamp
    try:
        return _File(kept, yaml_documents.parse(_read(path, _LONGEST_FILE)))
    except yaml_documents.DocumentError as error:
        return _File(kept, good, error)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _File(None, good, yaml_documents.DocumentError(1, f"cannot be read: {error.strerror}"))


def _is_young(stamp: _Stamp) -> bool:
    return abs(time.time() - stamp[3] / 1e9) < _SETTLED_SECONDS


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(0, f"is larger than {most} bytes", str(path))
    return data


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _snapshot(files: Mapping[str, _File]) -> dynakube_sources.Snapshot:
    good: dict[identifiers.DynaKubeName, dynakube.DynaKube] = {}
    bad: dict[str, str] = {}
    where: dict[str, str] = {}
    for name, file in files.items():
        if file.error is not None:
            place = f"{name}:{file.error.line}"
            bad[file.error.about or place] = f"{place}: {file.error}"
        for line, found in file.content.dynakubes:
            place = f"{name}:{line}"
            if found.name in good:
                bad[place] = f"{place}: DynaKube {found.name} is already defined in {where[found.name]}; remove one"
            else:
                good[found.name], where[found.name] = found, place
    return dynakube_sources.Snapshot(good, bad)
