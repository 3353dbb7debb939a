"""Hints at the right field for one that a DynaKube's API version does not have.

misspelt    a similar name in the same section
misplaced   the same name in another section, where the DynaKube has that section
moved       the place that a field of an older version has now
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from oneagent.common.dynakube.api import json_path, schema, version_history
from oneagent.common.dynakube.api.versions import NEWEST, VERSIONS
from oneagent.common.dynakube.mode import MODES
from oneagent.webhook.validation import similar_names
from oneagent.webhook.validation.context import ValidationContext

_MAX_GUESSES: Final = 3
_LONGEST_NAME: Final = 60
_SHORTEST_END: Final = 5
"""Characters from which on a name may be the end of a longer one: `resources` of `initResources`"""


def hint(ctx: ValidationContext, path: str) -> str:
    described = version_history.described(ctx.version)
    section, _, name = path.rpartition(".")
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        return "it has no effect."
    others = [version for version in VERSIONS if schema.get_section(version_history.described(version), path)]
    names = schema.get_section(described, section) or {}
    guesses = (
        _written_alike(names, section, name),
        (place for place in version_history.renamed(path) if others and schema.get_field(described, place)),
        _elsewhere(described, name),
        (place for place in version_history.renamed(f"spec.{name}") if schema.get_field(described, place)),
        _similar(names, section, name),
    )
    for places in guesses:
        if in_use := [place for place in places if _is_in_use(ctx, place)]:
            return f"did you mean {' or '.join(in_use[:_MAX_GUESSES])}?"
    if not others:
        return "it has no effect."
    # Conversion keeps a field of a newer version, which then counts.
    is_kept = others[-1] == NEWEST and json_path.get_value(ctx.new, path) is not None
    return f"it is a field of {others[-1]}{'' if is_kept else ', without effect here'}."


def _written_alike(described: schema.Schema, section: str, name: str) -> Iterator[str]:
    names = described.get("properties", {})
    return (_join(section, known) for known in names if known.lower() == name.lower())


def _elsewhere(described: schema.Schema, name: str) -> Iterator[str]:
    for path, _ in schema.fields(described):
        is_plain = path.startswith("spec.") and "[]" not in path and ".*" not in path
        if is_plain and path.rpartition(".")[2].lower() == name.lower():
            yield path


def _similar(described: schema.Schema, section: str, name: str) -> Iterator[str]:
    names = described.get("properties", {})
    ends = [known for known in names if len(name) >= _SHORTEST_END and known.lower().endswith(name.lower())]
    longer = [known for known in ends if similar_names.has_same_sense(name, known)]
    return (_join(section, known) for known in longer or similar_names.find(name, names, _MAX_GUESSES))


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _is_in_use(ctx: ValidationContext, place: str) -> bool:
    """Leave out modes that the DynaKube does not have, if it has any."""
    modes = [mode for mode in MODES if json_path.section(ctx.written, f"spec.oneAgent.{mode}") is not None]
    others = [mode for mode in MODES if modes and mode not in modes]
    return not any(place.startswith(f"spec.oneAgent.{mode}.") for mode in others)
