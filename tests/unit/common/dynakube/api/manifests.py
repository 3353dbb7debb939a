"""Manifests as people write them, each with what it is in the newest version."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

import yaml

from oneagent.common.dynakube.api import conversion

Manifest = dict[str, Any]

CASES: Final = sorted((Path(__file__).parent / "cases").glob("*.yaml"))


WRITTEN: Final = sorted((Path(__file__).parent / "written").glob("*.yaml"))
"""Manifests with the mode, namespaces and warnings that are expected of them"""


def case(path: Path) -> tuple[Manifest, Manifest]:
    written, newest = yaml.load_all(path.read_text(), yaml.CSafeLoader)
    return written, newest


def plain(manifest: Manifest) -> Manifest:
    """The same with what is carried as data, whose spaces don't count."""
    found = copy.deepcopy(manifest)
    annotations = found["metadata"].get("annotations", {})
    for key, value in annotations.items():
        if key.startswith(conversion.CARRIER) and value.startswith("["):
            annotations[key] = json.loads(value)
    return found
