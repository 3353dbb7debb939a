"""The kinds of moves that a field can make from one version to the next.

Each is done forwards (`up`), backwards (`down`), and backwards on the schema (`reshape`). A move says what a value
means in the other version, and may forget what that version has no place for: `conversion` carries it. A value of
a type that a move does not expect stays where it is; to refuse it is the validation's job.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from oneagent.common import identifiers
from oneagent.common.dynakube.api import feature_flags, json_path, schema
from oneagent.common.dynakube.api.json_path import Tree
from oneagent.common.dynakube.api.schema import Schema


class Move(Protocol):
    def up(self, tree: Tree, /) -> None: ...
    def down(self, tree: Tree, /) -> None: ...
    def reshape(self, described: Schema, /) -> None: ...


def _shift(tree: Tree, source: str, target: str) -> None:
    if json_path.get_value(tree, source) is not None:
        json_path.set_value(tree, target, json_path.pop_value(tree, source, tidy=True))


def _place(described: Schema, path: str, field: Schema | None) -> None:
    if field is not None:
        schema.set_field(described, path, field)


@dataclass(frozen=True, slots=True)
class Renamed:
    old: str
    new: str

    def up(self, tree: Tree) -> None:
        _shift(tree, self.old, self.new)

    def down(self, tree: Tree) -> None:
        _shift(tree, self.new, self.old)

    def reshape(self, described: Schema) -> None:
        _place(described, self.old, schema.pop_field(described, self.new))


@dataclass(frozen=True, slots=True)
class Switched:
    """A section that was there only if its field `enabled` said so, or said nothing."""

    old: str
    new: str

    def up(self, tree: Tree) -> None:
        section = json_path.section(tree, self.old)
        if section is None or not isinstance(section.get("enabled", True), bool):
            return
        json_path.pop_value(tree, self.old)
        if section.pop("enabled", True):
            json_path.set_value(tree, self.new, section)

    def down(self, tree: Tree) -> None:
        section = json_path.section(tree, self.new)
        if section is not None:
            json_path.pop_value(tree, self.new, tidy=True)
            json_path.set_value(tree, self.old, {"enabled": True, **section})

    def reshape(self, described: Schema) -> None:
        _place(described, self.old, schema.pop_field(described, self.new))
        schema.set_field(described, f"{self.old}.enabled", schema.switch("Enable this mode. On if not set."))


@dataclass(frozen=True, slots=True)
class Joined:
    """Two switched sections that, when both were on, meant a third thing."""

    first: str
    second: str
    new: str
    seconds: frozenset[str]
    """Fields of the new section that belong to the second one."""

    def up(self, tree: Tree) -> None:
        sections = [json_path.section(tree, path) for path in (self.first, self.second)]
        if any(section is None or section.get("enabled", True) is not True for section in sections):
            return
        joined: Tree = {}
        for path in (self.first, self.second):
            joined |= json_path.pop_value(tree, path)
        joined.pop("enabled", None)
        json_path.set_value(tree, self.new, joined)

    def down(self, tree: Tree) -> None:
        section = json_path.section(tree, self.new)
        if section is None:
            return
        json_path.pop_value(tree, self.new, tidy=True)
        for path, belongs in ((self.first, False), (self.second, True)):
            part = {key: value for key, value in section.items() if (key in self.seconds) is belongs}
            json_path.set_value(tree, path, {"enabled": True, **part})

    def reshape(self, described: Schema) -> None:
        schema.pop_field(described, self.new)


@dataclass(frozen=True, slots=True)
class Spread:
    """One place in the old version, and one in each of several sections in the new one.

    Back, the first section that is there speaks for all.
    """

    old: str
    new: tuple[str, ...]

    def up(self, tree: Tree) -> None:
        value = json_path.get_value(tree, self.old)
        if value is None:
            return
        json_path.pop_value(tree, self.old)
        for section, key in self._sections(tree):
            section.setdefault(key, copy.deepcopy(value))

    def down(self, tree: Tree) -> None:
        values = [section.pop(key, None) for section, key in self._sections(tree)]
        if values and values[0] is not None:
            json_path.set_value(tree, self.old, values[0])

    def reshape(self, described: Schema) -> None:
        taken = [schema.pop_field(described, path) for path in self.new]
        if not self.old.startswith("metadata."):
            _place(described, self.old, taken[0])

    def _sections(self, tree: Tree) -> list[tuple[Tree, str]]:
        found = []
        for path in self.new:
            parent, _, key = path.rpartition(".")
            section = json_path.section(tree, parent)
            if section is not None:
                found.append((section, key))
        return found


@dataclass(frozen=True, slots=True)
class Typed:
    """A feature flag that became a field.

    `meant` is what the missing flag meant, `means` what the missing field means; None: other fields decide.
    """

    feature: str
    new: str
    read: Callable[[str], object | None]
    meant: object
    means: object
    sections: tuple[str, ...] = ()
    """Without any of these sections the flag had no effect, whatever it said; empty: it always had."""
    unused: object = None
    """The field's value for a flag without effect. A missing flag without effect stays a missing field."""

    def up(self, tree: Tree) -> None:
        if json_path.get_value(tree, self.new) is not None:
            return
        value = self._pop_flags(tree)
        if not self._has_effect(tree):
            value = None if value is None else self.unused
        elif value is None and self.meant != self.means:
            value = self.meant
        if value is not None:
            json_path.set_value(tree, self.new, value)

    def down(self, tree: Tree) -> None:
        value, has_effect = json_path.get_value(tree, self.new), self._has_effect(tree)
        if value is None:
            value = self.means if has_effect else None
        elif type(value) is not type(self.meant):
            return
        json_path.pop_value(tree, self.new, tidy=True)
        if value is not None and (value != self.meant or not has_effect):
            json_path.set_value(tree, feature_flags.annotation(self.feature), str(value).lower())

    def reshape(self, described: Schema) -> None:
        schema.pop_field(described, self.new)

    def _has_effect(self, tree: Tree) -> bool:
        return not self.sections or any(json_path.section(tree, path) is not None for path in self.sections)

    def _pop_flags(self, tree: Tree) -> object | None:
        """Remove the flag in its first spelling, and return its value."""
        flag = feature_flags.first_given(json_path.section(tree, "metadata.annotations") or {}, self.feature)
        value = self.read(flag.meaning) if flag is not None else None
        if flag is not None and value is not None:
            json_path.pop_value(tree, f"metadata.annotations[{flag.key}]")
        return value


@dataclass(frozen=True, slots=True)
class Respelled:
    """Feature flags with an old prefix get the new one. None goes back: it was never asked for."""

    def up(self, tree: Tree) -> None:
        annotations = json_path.section(tree, "metadata.annotations") or {}
        for prefix in feature_flags.PREFIXES[1:]:
            for key in [key for key in annotations if key.startswith(prefix)]:
                value = annotations.pop(key)
                annotations.setdefault(identifiers.FEATURE_PREFIX + key.removeprefix(prefix), value)

    def down(self, tree: Tree) -> None:
        pass

    def reshape(self, described: Schema) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Filled:
    """A field that, in a section that is there, meant a fixed value and has to be written now."""

    new: str
    value: Any

    def up(self, tree: Tree) -> None:
        section, key = self._section(tree)
        if section is not None:
            section.setdefault(key, copy.deepcopy(self.value))

    def down(self, tree: Tree) -> None:
        section, key = self._section(tree)
        if section is not None and json_path.same(section.get(key), self.value):
            del section[key]

    def reshape(self, described: Schema) -> None:
        pass

    def _section(self, tree: Tree) -> tuple[Tree | None, str]:
        parent, _, key = self.new.rpartition(".")
        return json_path.section(tree, parent), key


@dataclass(frozen=True, slots=True)
class Inverted:
    """A switch with another default: each version writes what the other one means by a missing switch."""

    new: str
    before: bool
    after: bool
    field: Schema
    """The older version's description of it."""

    def up(self, tree: Tree) -> None:
        self._fill(tree, self.before)

    def down(self, tree: Tree) -> None:
        self._fill(tree, self.after)

    def reshape(self, described: Schema) -> None:
        schema.set_field(described, self.new, self.field)

    def _fill(self, tree: Tree, default: bool) -> None:
        parent, _, key = self.new.rpartition(".")
        section = json_path.section(tree, parent)
        if section is not None:
            section.setdefault(key, default)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A field that no newer version has."""

    old: str
    field: Schema

    def up(self, tree: Tree) -> None:
        json_path.pop_value(tree, self.old)

    def down(self, tree: Tree) -> None:
        pass

    def reshape(self, described: Schema) -> None:
        schema.set_field(described, self.old, self.field)


@dataclass(frozen=True, slots=True)
class Noted:
    """A switch that no newer version has; what it said stays readable in an annotation."""

    old: tuple[str, ...]
    annotation: str
    field: Schema

    def up(self, tree: Tree) -> None:
        values = [value for path in self.old if isinstance(value := json_path.get_value(tree, path), bool)]
        for path in self.old:
            if isinstance(json_path.get_value(tree, path), bool):
                json_path.pop_value(tree, path)
        if values:
            json_path.set_value(tree, self._note, "true" if values[0] else "false")

    def down(self, tree: Tree) -> None:
        value = {"true": True, "false": False}.get(str(json_path.get_value(tree, self._note)))
        here = [path for path in self.old if json_path.section(tree, path.rpartition(".")[0]) is not None]
        if value is None or not here:
            return
        json_path.pop_value(tree, self._note)
        for path in here:
            json_path.set_value(tree, path, value)

    def reshape(self, described: Schema) -> None:
        for path in self.old:
            schema.set_field(described, path, self.field)

    @property
    def _note(self) -> str:
        return f"metadata.annotations[{self.annotation}]"
