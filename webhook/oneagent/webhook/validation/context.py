"""The DynaKube as rules read it: converted to the newest version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from oneagent.common import identifiers
from oneagent.common.dynakube.api import feature_flags, fields, json_path
from oneagent.common.dynakube.api.json_path import Tree
from oneagent.common.dynakube.mode import MODES, Mode
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.webhook.injection.inputs import Object

_SHOWN: Final = 80
_TENANT: Final = "status.oneAgent.connectionInfoStatus.tenantUUID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of the cluster, as far as rules ask for it."""

    dynakubes: Sequence[Object] = ()
    """All that there are, in the newest version; the one that is validated may be among them"""
    namespaces: Mapping[str, Mapping[str, str]] | None = None
    """Their labels by their names; None as long as that is not known"""
    own_namespace: str
    csi: bool = False
    """Whether the node driver is installed"""
    csi_known: bool = False
    """Whether `csi` says anything"""

    @property
    def no_csi(self) -> bool:
        return self.csi_known and not self.csi


@dataclass(frozen=True, slots=True)
class Verdict:
    errors: tuple[str, ...] = ()
    """Why the DynaKube is refused; none if it is not"""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    written: Tree
    new: Tree
    """What was written, in the newest version"""
    old: Tree | None
    """What it was before, in the newest version; None if it is being created"""
    known: Known

    @property
    def version(self) -> str:
        """In which it was written."""
        return str(self.written["apiVersion"]).rpartition("/")[2]

    @property
    def name(self) -> str:
        return self.text("metadata.name")

    @property
    def tenant(self) -> str:
        """As the operator has learned it; empty as long as it has not."""
        found = json_path.look(self.old or {}, _TENANT)
        return found if isinstance(found, str) else ""

    @property
    def unchanged(self) -> bool:
        if self.old is None:
            return False
        return json_path.same(self.old.get("spec"), self.new.get("spec")) and _flags(self.old) == _flags(self.new)

    def text(self, path: str) -> str:
        """Text of a field, stripped; empty if it is absent or no text."""
        found = json_path.look(self.new, path)
        return found.strip() if isinstance(found, str) else ""

    def modes(self, among: tuple[Mode, ...] = MODES) -> list[Mode]:
        return modes(self.new, among)

    def each(self, field: str, among: tuple[Mode, ...] = MODES) -> Iterator[tuple[str, str]]:
        """The path and text of a field in each mode that is on and has it."""
        for mode in self.modes(among):
            path = f"spec.oneAgent.{mode}.{field}"
            if value := self.text(path):
                yield path, value

    def arguments(self) -> Iterator[tuple[str, list[str]]]:
        """The host agents' arguments, by their path."""
        for mode in self.modes(fields.HOST_MODES):
            path = f"spec.oneAgent.{mode}.args"
            if isinstance(found := json_path.look(self.new, path), list):
                yield path, [argument for argument in found if isinstance(argument, str)]

    def flag(self, name: str) -> str:
        """A feature flag's value; empty if it is not given."""
        found = _flags(self.new)
        return (
            found.get(identifiers.FEATURE_PREFIX + name) or found.get(feature_flags.OLD_PREFIX + name) or ""
        ).strip()

    def others(self) -> list[Object]:
        """The other DynaKubes, by name."""
        named = {str(json_path.look(dict(other), "metadata.name")): other for other in self.known.dynakubes}
        return [named[name] for name in sorted(named) if name != self.name]


Rule = Callable[[Subject], Iterator[str]]


def modes(manifest: Object, among: tuple[Mode, ...] = MODES) -> list[Mode]:
    """Those that are on."""
    return [mode for mode in among if json_path.section(dict(manifest), f"spec.oneAgent.{mode}") is not None]


def quoted(value: str) -> str:
    """Quote a value on one line, shortened."""
    return repr(value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "...")


def unusable(error: kubernetes_fields.FieldError) -> str:
    return f"The DynaKube has a field that cannot be used: {error}. Make sure that {error.field} is right or left out."


def _flags(tree: Tree) -> dict[str, str]:
    annotations = json_path.section(tree, "metadata.annotations") or {}
    return {key: kubernetes_fields.scalar(annotations[key]) for key, _ in feature_flags.given(annotations)}
