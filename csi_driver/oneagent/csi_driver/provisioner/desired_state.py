"""The desired state of a node: from DynaKubes, tenant states and the store's contents to rows and install requests.

Pure, except for the config layers, which a `LayerWriter` makes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from oneagent.common import agents, logs
from oneagent.common import dynakube as dynakubes
from oneagent.common.dynakube import DynaKube, desired_version
from oneagent.common.dynakube.desired_version import Origin
from oneagent.common.dynakube.mode import Mode
from oneagent.common.identifiers import DynaKubeName, StoreKey, TenantId, Version, agent_version
from oneagent.common.tenant.image_resolver import SignatureStore
from oneagent.common.tenant.poll import TenantState
from oneagent.csi_driver.data_dir import LayerId
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner import package_sources
from oneagent.csi_driver.provisioner.installer.fetch import InstallRequest
from oneagent.csi_driver.store import store_key

log = logging.getLogger(__name__)

LayerWriter = Callable[[DynaKube, TenantState, DesiredState, Path], LayerId]
"""Makes the config layer of a DynaKube for a version's tree; empty while not everything for it is known; `OSError`."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that decides the desired state, at one moment."""

    rows: Mapping[DynaKubeName, DesiredState]
    """The previous desired state."""
    tenants: Mapping[DynaKubeName, TenantState]
    """By DynaKube; none before its first poll has ended, for the reason in `waiting`."""
    trees: Mapping[Version, Path]
    """Stored versions."""
    records: Mapping[Version, VersionRecord]
    contents: Mapping[DynaKubeName, StoreKey]
    """Keys of packages that are known by their content, by DynaKube."""
    signatures: SignatureStore
    waiting: Mapping[DynaKubeName, str] = field(default_factory=dict)
    delays: Mapping[DynaKubeName, float] = field(default_factory=dict)
    """Seconds that this node has waited with reading a DynaKube's first answers."""
    arriving: Mapping[Version, Path] = field(default_factory=dict)
    """Trees that are about to enter the store."""


def find_desired(dynakubes: Iterable[DynaKube], inputs: Inputs, layer: LayerWriter) -> dict[DynaKubeName, DesiredState]:
    """Return the row of each DynaKube. `OSError` if a tree that arrives cannot get its configuration."""
    return {dynakube.name: _safe_row(dynakube, inputs, layer) for dynakube in dynakubes}


def find_missing(
    dynakubes: Iterable[DynaKube], rows: Mapping[DynaKubeName, DesiredState], inputs: Inputs
) -> list[InstallRequest]:
    """Return the versions to install, each once however many DynaKubes use it."""
    users: dict[StoreKey, list[DynaKube]] = {}
    for dynakube in dynakubes:
        version = rows[dynakube.name].version
        # Before the first poll there is no configuration for a version. And a version of the DynaKube's former source
        # does not come from the present one.
        is_missing = dynakube.name in inputs.tenants and version not in inputs.trees
        if is_missing and _may_download(dynakube) and package_sources.serves(dynakube, version):
            users.setdefault(StoreKey(version), []).append(dynakube)
    return [
        InstallRequest(key, tuple(dynakubes), max(_delay(dynakube, inputs) for dynakube in dynakubes))
        for key, dynakubes in users.items()
    ]


def _delay(dynakube: DynaKube, inputs: Inputs) -> float:
    """Return the delay of a DynaKube's first version. Later ones are known without the answers."""
    before = inputs.rows.get(dynakube.name)
    return inputs.delays.get(dynakube.name, 0.0) if before is None or not before.version else 0.0


def explain_refusal(dynakube: DynaKube, tenant: TenantState | None) -> str:
    """Return why the image that must be signed is not used; empty if it is."""
    return tenant.image.problem if tenant is not None and dynakube.image_key else ""


def _safe_row(dynakube: DynaKube, inputs: Inputs, layer: LayerWriter) -> DesiredState:
    """Return the row; after an unexpected error the former one, with the reason. Others are not affected."""
    try:
        return _row(dynakube, inputs, layer)
    except OSError:
        raise
    except Exception as error:
        before = inputs.rows.get(dynakube.name) or DesiredState(dynakube.name)
        condition = explain_internal_error(error)
        if before.condition != condition:  # Once, and not each second.
            log.exception("desired state not found", extra=logs.fields(dynakube=dynakube.name))
        return dataclasses.replace(before, condition=condition)


def explain_internal_error(error: Exception) -> str:
    """Return the condition for an unexpected error, whose text may have anything in it."""
    return f"internal error ({type(error).__name__}): see the provisioner's log"


def _row(dynakube: DynaKube, inputs: Inputs, layer: LayerWriter) -> DesiredState:
    before = _without_unproven(inputs.rows.get(dynakube.name) or DesiredState(dynakube.name))
    row = dataclasses.replace(
        before,
        mount_attempts=dynakube.mount_attempts,
        mount_timeout_seconds=dynakube.mount_timeout_seconds,
        mount_policy=dynakube.mount_policy,
        cluster_id=dynakube.cluster_id,
        host_tenant=dynakube.mode is Mode.CLOUD_NATIVE_FULL_STACK,
        condition="",
    )
    if not dynakube.needs_views:
        return dataclasses.replace(_without_fallback(row), version=Version(""), layer=LayerId(""))
    state = inputs.tenants.get(dynakube.name)
    if state is None:
        # The row of an earlier process stands until the first poll has ended.
        waits_for = inputs.waiting.get(dynakube.name) or "the tenant is being polled"
        return row if row.version and row.layer else dataclasses.replace(row, condition=waits_for)
    tenant = state.tenant or dynakube.tenant or row.tenant or TenantId(dynakube.name)
    # Agents of another tenant report to that tenant: none of them is a fallback.
    usable = tenant == row.tenant and _may_fall_back(dynakube, state, row.good_version, inputs.signatures)
    own_layer = row.layer if tenant == row.tenant else LayerId("")
    row = dataclasses.replace(row if usable else _without_fallback(row), tenant=tenant, layer=own_layer)
    version = _version(dynakube, state, before.version, inputs)
    if not version:
        condition = state.any_problem or "the tenant names no version"
        return dataclasses.replace(row, version=Version(""), condition=condition)
    return _with_layer(dynakube, dataclasses.replace(row, version=version), state, inputs, layer)


def _with_layer(
    dynakube: DynaKube, row: DesiredState, state: TenantState, inputs: Inputs, layer: LayerWriter
) -> DesiredState:
    """Return the row with the config layer for its version, or with the reason why there is none yet."""
    version = row.version
    tree = inputs.arriving.get(version) or inputs.trees.get(version)
    if condition := _obstacle(dynakube, version, tree, state, inputs):
        # A view of another kind of agent would have a configuration that it does not read.
        kept = row.layer if tree is None else LayerId("")
        return dataclasses.replace(row, layer=kept, condition=condition)
    assert tree is not None
    try:
        row = dataclasses.replace(
            row, layer=layer(dynakube, state, row, tree), condition=explain_refusal(dynakube, state)
        )
    except OSError as error:
        if version in inputs.arriving:
            raise
        # A full disk must stop neither other DynaKubes nor the garbage collector, which runs after this.
        return dataclasses.replace(row, condition=f"its configuration can't be written: {error.strerror}")
    if not row.layer:
        # A pod with half a configuration would run to its end without reporting.
        return dataclasses.replace(row, condition=f"agents cannot be configured yet: {state.obstacle}")
    # Only a stored version is a fallback, not one that is about to be stored.
    if version in inputs.arriving:
        return row
    return dataclasses.replace(row, good_version=version, good_layer=row.layer)


def _obstacle(dynakube: DynaKube, version: Version, tree: Path | None, state: TenantState, inputs: Inputs) -> str:
    """Return why a version cannot be used yet, by its tree in the store; empty if it can."""
    if tree is None:
        if not _may_download(dynakube):
            return f"version {agent_version(version)} is not in the store: preload it, or change its pull policy"
        return _explain_missing(version, state, inputs.records.get(version))
    found, wanted = agents.of_tree(tree), agents.get(dynakube.agent)
    if found is None or found is wanted:
        return ""
    return f"version {agent_version(version)} is an agent of {found.title}, not of {wanted.title}: name another package"


def _version(dynakube: DynaKube, state: TenantState, before: Version, inputs: Inputs) -> Version | None:
    """Return the desired key; until the version is known, the previous key."""
    choice = desired_version.choose(
        image=str(dynakube.image or dynakube.image_layout or ""),
        pinned=dynakube.decided_version or dynakube.pinned_version or "",
        package=dynakube.package,
        latest=state.latest or "",
        current=agent_version(before),
    )
    if choice.origin is Origin.IMAGE:
        return _image_version(dynakube, state, before, inputs)
    if choice.origin is Origin.PACKAGE:
        return inputs.contents.get(dynakube.name) or before
    if choice.origin is Origin.TENANT and not state.latest:
        return before
    return package_sources.version_key(dynakube, Version(choice.version))


def _image_version(dynakube: DynaKube, state: TenantState, before: Version, inputs: Inputs) -> Version | None:
    named = dynakube.image or dynakube.image_layout
    stored = before if before in inputs.trees else None
    if not dynakube.image_key:
        digest = (named.digest if named else "") or state.image.digest
        return store_key.of_image(digest) if digest else stored
    if state.image.keys is None:
        # Until the keys can be read, nothing changes.
        return stored
    for version in (store_key.of_image(state.image.digest), before):
        if inputs.signatures.is_signed(store_key.image_digest(version), state.image.keys):
            return version
    return None


def _may_fall_back(dynakube: DynaKube, state: TenantState, version: Version, signatures: SignatureStore) -> bool:
    """Return True if a version may be mounted instead of the desired one: it needs the same signature."""
    if dynakube.image is None or not dynakube.image_key or state.image.keys is None:
        return True
    return signatures.is_signed(store_key.image_digest(version), state.image.keys)


def _may_download(dynakube: DynaKube) -> bool:
    return dynakube.image is None or dynakube.pull_policy != dynakubes.NO_PULL


def _explain_missing(version: Version, state: TenantState, record: VersionRecord | None) -> str:
    if record is not None and record.state == VersionState.FAILED:
        return f"version {agent_version(version)} can't be installed: {record.message}"
    progress = record.state if record is not None else VersionState.PENDING
    if record is not None and record.message and record.state in (VersionState.DOWNLOADING, VersionState.UNPACKING):
        return f"version {agent_version(version)} was not installed: {record.message}; trying again ({progress})"
    problem = f"; {state.any_problem}" if state.any_problem else ""
    return f"version {agent_version(version)} is not in the store yet ({progress}){problem}"


def _without_unproven(row: DesiredState) -> DesiredState:
    """Leave out what an older driver stored: nothing proves where such a tree is from."""
    if not store_key.is_key(row.good_version):
        row = _without_fallback(row)
    return row if store_key.is_key(row.version) else dataclasses.replace(row, version=Version(""), layer=LayerId(""))


def _without_fallback(row: DesiredState) -> DesiredState:
    return dataclasses.replace(row, good_version=Version(""), good_layer=LayerId(""))
