"""Where the agent lies in a package, and what has to be in it.

The package of the deployment API holds the agent below `opt/dynatrace/oneagent`, the one without
metadata and the images hold it at the top. `agent/bin/current`, which some technologies are found by,
names the newest version folder. All of this is decided from the outline, so that the link is made with
the rest of the tree: a crash can leave no version without it.
"""

from __future__ import annotations

import re
from typing import Final

from oneagent.common import names, packages
from oneagent.common.packages import NotAnAgent

NESTED: Final = "opt/dynatrace/oneagent"
_BIN: Final = "agent/bin"
CURRENT: Final = f"{_BIN}/current"
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)\.(\d+)-(\d+)", re.ASCII)


def prepare(outline: packages.Outline) -> str:
    """The folder in the package that is the agent's root ("" for the package itself).

    Adds the link `current` below it if the package has none, and refuses what is no agent.
    """
    root = NESTED if NESTED in outline.directories else ""
    prefix = f"{root}/" if root else ""
    if prefix + names.PRELOAD_LIBRARY not in outline.files:
        raise NotAnAgent(f"the package has no {names.PRELOAD_LIBRARY}")
    current = prefix + CURRENT
    if current in outline.files or current in outline.directories:
        raise NotAnAgent(f"{current!r} has to be a link to a version's folder, or absent")
    newest = _newest(outline, prefix + _BIN)
    if current not in outline.links and newest:
        outline.add_link(current, newest)
    outline.check(root)
    if current in outline.links and outline.resolve(current, root) not in outline.directories:
        raise NotAnAgent(f"{current!r} does not lead to a folder")
    return root


def version(outline: packages.Outline) -> str | None:
    """The version that the agent in a package says it is; None if it doesn't say."""
    return _newest(outline, f"{NESTED}/{_BIN}" if NESTED in outline.directories else _BIN)


def _newest(outline: packages.Outline, folder: str) -> str | None:
    found = {
        tuple(map(int, match.groups())): match[0]
        for path in outline.directories
        if packages.parent(path) == folder and (match := _VERSION.fullmatch(path.rpartition("/")[2]))
    }
    return found[max(found)] if found else None
