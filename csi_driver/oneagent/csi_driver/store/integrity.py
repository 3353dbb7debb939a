"""Integrity of the agent store: versions and config layers are read again and compared.

A version has a file manifest from when it was unpacked: content, size and permissions of files, links, directories.
A config layer is named by a digest of the one file that is in it. Owners and extended attributes are not compared,
and manifests lie beside the store: this finds corruption by a disk or a mistake, not an attacker who changes both.
It excludes what pods wrote, changes nothing, and releases the page cache that it fills.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from oneagent.common.identifiers import PRELOAD_LIBRARY, TenantId, Version
from oneagent.common.unpack import file_manifest
from oneagent.common.unpack.file_manifest import Finding
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.data_dir import DataDir, LayerId
from oneagent.csi_driver.store import config_layers

JSON_FORMAT: Final = 1
"""Fields of the JSON form are only ever added; this changes if one has to go."""


class State(enum.StrEnum):
    OK = "ok"
    DAMAGED = "damaged"
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
    wanted: Iterable[Version] = (),
    *,
    bytes_per_second: float | None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[IntegrityReport]:
    """Check these versions, or all versions and config layers, one per iteration.

    `OSError` if the store can't be listed. Versions removed meanwhile are left out. Once `cancelled()`, the findings
    so far.
    """
    named = list(wanted)
    for version in named or _versions(data):
        here = os.path.isdir(data.agent(version))
        found = _version(data, version, bytes_per_second, cancelled) if here else None
        if found is not None and os.path.isdir(data.agent(version)):
            yield found
        elif version in named:
            yield IntegrityReport("version", version, State.MISSING)
    for tenant, layer in [] if named else _layers(data):
        checked = _layer(data, tenant, layer)
        if os.path.isdir(data.layer(tenant, layer)):
            yield checked


def remedy(data: DataDir, checked: IntegrityReport) -> str:
    """Return the remedy; empty if intact. Running pods keep their mounts for as long as they run."""
    if checked.state == State.OK:
        return ""
    if checked.state == State.MISSING:
        return "oneagent-csi status shows the versions that are there"
    if checked.kind == "version":
        place, name = data.agent(Version(checked.name)), checked.name
    else:
        tenant, _, name = checked.name.partition("/")
        place = data.layer(TenantId(tenant), LayerId(name))
    away = f"mv {place} {data.trash}/{name}.damaged"
    return f"{away}; the provisioner makes it anew if it is wanted, then restart its pods"


def summary(checked: IntegrityReport) -> str:
    """What is wrong with it, in some words."""
    shown = [f"{finding.path or 'the whole directory'} ({finding.problem})" for finding in checked.findings[:3]]
    more = len(checked.findings) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def as_json(data: DataDir, found: Iterable[IntegrityReport]) -> dict[str, Any]:
    """The form for programs."""
    rows = [dataclasses.asdict(checked) | {"remedy": remedy(data, checked)} for checked in found]
    plain: dict[str, Any] = msgspec.to_builtins({"format": JSON_FORMAT, "checked": rows})
    return plain


def lines(data: DataDir, checked: IntegrityReport) -> Iterator[str]:
    """The form for people."""
    read = f", {checked.files} files, {checked.bytes >> 20} MiB" if checked.files else ""
    yield f"{checked.kind} {checked.name}: {checked.state}{read}{f' ({checked.message})' if checked.message else ''}"
    for finding in checked.findings:
        detail = f" ({finding.detail})" if finding.detail else ""
        yield f"  {finding.path or 'the whole directory'}: {finding.problem}{detail}"
    if what := remedy(data, checked):
        yield f"  what to do: {what}"


def _versions(data: DataDir) -> list[Version]:
    """List the versions in the store; other directories are ignored."""
    return sorted(Version(name) for name in _folders(data.agents))


def _layers(data: DataDir) -> list[tuple[TenantId, LayerId]]:
    return sorted(
        (TenantId(tenant), LayerId(layer))
        for tenant in _folders(data.config_layers)
        for layer in _folders(data.config_layers / tenant)
    )


def _folders(above: Path) -> Iterator[str]:
    with os.scandir(above) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and data_dir.is_component(entry.name):
                yield entry.name


def _version(
    data: DataDir, version: Version, bytes_per_second: float | None, cancelled: Callable[[], bool] | None
) -> IntegrityReport:
    tree = Path(data.agent(version))
    try:
        manifest = file_manifest.Manifest.load(data.manifest(version))
    except file_manifest.TreeManifestError as error:
        if (tree / PRELOAD_LIBRARY).is_file():
            return IntegrityReport("version", version, State.UNVERIFIED, message=str(error))
        return IntegrityReport("version", version, State.DAMAGED, findings=(Finding(PRELOAD_LIBRARY, "missing"),))
    findings = tuple(file_manifest.verify(tree, manifest, bytes_per_second=bytes_per_second, cancelled=cancelled))
    return IntegrityReport(
        "version",
        version,
        State.DAMAGED if findings else State.OK,
        files=len(manifest.files),
        bytes=manifest.unpacked_bytes,
        findings=findings,
    )


def _layer(data: DataDir, tenant: TenantId, layer: LayerId) -> IntegrityReport:
    place = data.config_layer(tenant, layer)
    findings: list[Finding] = []
    content = b""
    try:
        content = (place / config_layers.CONFIG_FILE).read_bytes()
        if config_layers.layer_id(content) != layer:
            findings.append(
                Finding(config_layers.CONFIG_FILE, "content", f"its digest is {config_layers.layer_id(content)}")
            )
    except FileNotFoundError:
        findings.append(Finding(config_layers.CONFIG_FILE, "missing"))
    except OSError as error:
        findings.append(Finding(config_layers.CONFIG_FILE, "unreadable", error.strerror or ""))
    files = sorted(path.relative_to(place) for path in place.rglob("*") if not path.is_dir())
    findings += [Finding(str(path), "unexpected") for path in files if str(path) != config_layers.CONFIG_FILE]
    state = State.DAMAGED if findings else State.OK
    return IntegrityReport("layer", f"{tenant}/{layer}", state, files=1, bytes=len(content), findings=tuple(findings))
