"""The DynaKube as rules read it: converted to the newest version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from oneagent.common.dynakube.api import feature_flags, fields, json_path
from oneagent.common.dynakube.api.json_path import Tree
from oneagent.common.dynakube.mode import MODES, Mode
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.webhook.injection.inputs import Object

_MAX_QUOTED: Final = 80
_TENANT: Final = "status.oneAgent.connectionInfoStatus.tenantUUID"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """State of the cluster that rules compare a DynaKube with."""

    dynakubes: Sequence[Object] = ()
    """All DynaKubes, in the newest version; may include the validated one"""
    namespaces: Mapping[str, Mapping[str, str]] | None = None
    """Labels of all namespaces by name; None before the first list"""
    own_namespace: str
    has_csi_driver: bool = False
    """The node driver is installed."""
    is_csi_driver_known: bool = False
    """`has_csi_driver` is known."""
    secrets: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict, repr=False)
    """Texts by key of the Secrets that the DynaKube names; None for a missing one. One that could not be read is not
    in it."""

    @property
    def lacks_csi_driver(self) -> bool:
        return self.is_csi_driver_known and not self.has_csi_driver


@dataclass(frozen=True, slots=True)
class ValidationResult:
    errors: tuple[str, ...] = ()
    """Reasons to refuse the DynaKube; empty if it is valid"""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ValidationContext:
    """A DynaKube under validation, its previous form, and the cluster."""

    written: Tree
    """As the user wrote it"""
    new: Tree
    """Converted to the newest version"""
    old: Tree | None
    """The stored form, in the newest version; None on create"""
    cluster: ClusterState

    @property
    def version(self) -> str:
        """The API version that the user wrote."""
        return str(self.written["apiVersion"]).rpartition("/")[2]

    @property
    def name(self) -> str:
        return self.text("metadata.name")

    @property
    def tenant(self) -> str:
        """The tenant in the operator's status; empty before the first connection."""
        tenant = json_path.get_value(self.old or {}, _TENANT)
        return tenant if isinstance(tenant, str) else ""

    @property
    def unchanged(self) -> bool:
        if self.old is None:
            return False
        return json_path.same(self.old.get("spec"), self.new.get("spec")) and _flags(self.old) == _flags(self.new)

    def text(self, path: str) -> str:
        """Return a field's text, stripped; empty if it is absent or not a string."""
        value = json_path.get_value(self.new, path)
        return value.strip() if isinstance(value, str) else ""

    def modes(self, among: tuple[Mode, ...] = MODES) -> list[Mode]:
        return modes(self.new, among)

    def text_in_modes(self, field: str, among: tuple[Mode, ...] = MODES) -> Iterator[tuple[str, str]]:
        """Yield path and text of a field in each mode that is on and sets it."""
        for mode in self.modes(among):
            path = f"spec.oneAgent.{mode}.{field}"
            if value := self.text(path):
                yield path, value

    def arguments(self) -> Iterator[tuple[str, list[str]]]:
        """Yield path and arguments of each host agent."""
        for mode in self.modes(fields.HOST_MODES):
            path = f"spec.oneAgent.{mode}.args"
            if isinstance(arguments := json_path.get_value(self.new, path), list):
                yield path, [argument for argument in arguments if isinstance(argument, str)]

    def flag(self, name: str) -> str:
        """Return a feature flag's value; empty if it is not set."""
        return feature_flags.value(json_path.section(self.new, "metadata.annotations") or {}, name)

    def other_dynakubes(self) -> list[Object]:
        """Return all other DynaKubes, sorted by name."""
        by_name = {str(json_path.get_value(dict(other), "metadata.name")): other for other in self.cluster.dynakubes}
        return [by_name[name] for name in sorted(by_name) if name != self.name]


Rule = Callable[[ValidationContext], Iterator[str]]


def modes(manifest: Object, among: tuple[Mode, ...] = MODES) -> list[Mode]:
    """Return the modes that are on."""
    return [mode for mode in among if json_path.section(dict(manifest), f"spec.oneAgent.{mode}") is not None]


def quote(value: str) -> str:
    """Quote a value on one line, shortened."""
    return repr(value if len(value) <= _MAX_QUOTED else value[: _MAX_QUOTED - 3] + "...")


def describe_field_error(error: kubernetes_fields.FieldError) -> str:
    return f"The DynaKube has an invalid field: {error}. Make sure that {error.field} is valid, or leave it out."


def _flags(tree: Tree) -> dict[str, str]:
    annotations = json_path.section(tree, "metadata.annotations") or {}
    return {flag.key: flag.value for flag in feature_flags.given(annotations)}
