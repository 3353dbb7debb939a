"""Integrity of the agent store: versions and config layers are read again and compared.

A version has a file manifest from when it was unpacked: content, size and permissions of files, links, directories.
A config layer is named by a digest of the files that are in it. Owners and extended attributes are not compared,
and manifests lie beside the store: this finds corruption by a disk or a mistake, not an attacker who changes both.
It excludes what pods wrote, changes nothing, and releases the page cache that it fills.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oneagent.common import agents
from oneagent.common.identifiers import TenantId, Version, agent_version
from oneagent.common.unpack import file_manifest
from oneagent.common.unpack.file_manifest import Finding
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.store import config_layers, mount_points


class State(enum.StrEnum):
    OK = "ok"
    CORRUPT = "corrupt"
    UNVERIFIED = "unverified"
    """Its file manifest is unusable; only its preload library was checked."""
    MISSING = "missing"
    """It was requested by name and is not in the store."""


@dataclass(frozen=True, slots=True)
class IntegrityReport:
    """A version, or a config layer as `tenant/layer`. `message`: why a file manifest is unusable."""

    kind: Literal["version", "layer"]
    name: str
    state: State
    files: int = 0
    bytes: int = 0
    findings: tuple[Finding, ...] = ()
    message: str = ""


def check(
    data: DataDir,
    versions: Iterable[Version] = (),
    *,
    bytes_per_second: float | None,
    cancelled: Callable[[], bool] | None = None,
    on_begin: Callable[[Version, int], Callable[[int], None]] = lambda _version, _bytes: lambda _read: None,
) -> Iterator[IntegrityReport]:
    """Check these versions, or all versions and config layers, one per iteration.

    `OSError` if the store can't be listed. Versions removed meanwhile are left out. Once `cancelled()`, the findings
    so far. `on_begin` gets a version and its bytes, and returns the function that gets the bytes of each piece read.
    """
    named = list(versions)
    for version in _find(data, named) if named else _list_versions(data):
        exists = os.path.isdir(data.agent(version))
        report = _check_version(data, version, bytes_per_second, cancelled, on_begin) if exists else None
        if report is not None and os.path.isdir(data.agent(version)):
            yield report
        elif version in named:
            yield IntegrityReport("version", version, State.MISSING)
    for tenant, layer in [] if named else _list_layers(data):
        report = _check_layer(data, tenant, layer)
        if os.path.isdir(data.config_layer_path(tenant, layer)):
            yield report


def _find(data: DataDir, named: Iterable[Version]) -> Iterator[Version]:
    """Yield the versions in the store by their key, or by the version that `oneagent-csi status` shows of it."""
    stored = _list_versions(data)
    for name in named:
        matching = [version for version in stored if name in (version, agent_version(version))]
        yield from matching or [name]


def summarize(report: IntegrityReport) -> str:
    """Return the first findings in one line."""
    shown = [f"{finding.path or 'the whole directory'} ({finding.problem})" for finding in report.findings[:3]]
    more = len(report.findings) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _list_versions(data: DataDir) -> list[Version]:
    """List the versions in the store; other directories are ignored."""
    return sorted(Version(name) for name in _subdirectories(data.agents))


def _list_layers(data: DataDir) -> list[tuple[TenantId, LayerId]]:
    return sorted(
        (TenantId(tenant), LayerId(layer))
        for tenant in _subdirectories(data.config_layers)
        for layer in _subdirectories(data.config_layers / tenant)
    )


def _subdirectories(parent: Path) -> Iterator[str]:
    with os.scandir(parent) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and data_dir.is_component(entry.name):
                yield entry.name


def _check_version(
    data: DataDir,
    version: Version,
    bytes_per_second: float | None,
    cancelled: Callable[[], bool] | None,
    on_begin: Callable[[Version, int], Callable[[int], None]],
) -> IntegrityReport:
    tree = Path(data.agent(version))
    try:
        manifest = file_manifest.Manifest.load(data.manifest(version))
    except file_manifest.TreeManifestError as error:
        if agents.of_tree(tree) is not None:
            return IntegrityReport("version", version, State.UNVERIFIED, message=str(error))
        return IntegrityReport(
            "version", version, State.CORRUPT, findings=(Finding(agents.DEFAULT.preload_library, "missing"),)
        )
    on_read = on_begin(version, manifest.unpacked_bytes)
    found = file_manifest.verify(
        tree, manifest, bytes_per_second=bytes_per_second, cancelled=cancelled, on_read=on_read
    )
    findings = tuple(
        finding for finding in found if finding.problem != "unexpected" or not mount_points.is_added(tree, finding.path)
    )
    return IntegrityReport(
        "version",
        version,
        State.CORRUPT if findings else State.OK,
        files=len(manifest.files),
        bytes=manifest.unpacked_bytes,
        findings=findings,
    )


def _check_layer(data: DataDir, tenant: TenantId, layer: LayerId) -> IntegrityReport:
    root = data.config_layer(tenant, layer)
    findings: list[Finding] = []
    contents: dict[str, bytes] = {}
    names = config_layers.find_files(root)
    for name in names:
        try:
            contents[name] = (root / name).read_bytes()
        except FileNotFoundError:
            findings.append(Finding(name, "missing"))
        except OSError as error:
            findings.append(Finding(name, "unreadable", error.strerror or ""))
    if not findings and (digest := config_layers.layer_id(contents)) != layer:
        # One digest over all does not tell which of several files is another one.
        place = names[0] if len(names) == 1 else os.path.dirname(names[0])
        findings.append(Finding(place, "content", f"its digest is {digest}"))
    files = sorted(path.relative_to(root) for path in root.rglob("*") if not path.is_dir())
    findings += [Finding(str(path), "unexpected") for path in files if str(path) not in names]
    return IntegrityReport(
        "layer",
        f"{tenant}/{layer}",
        State.CORRUPT if findings else State.OK,
        files=len(names),
        bytes=sum(map(len, contents.values())),
        findings=tuple(findings),
    )
