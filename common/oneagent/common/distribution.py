"""The version of the installed distribution.

Read from the name of its `.dist-info` directory, which every installer makes `NAME-VERSION`: `importlib.metadata` would
load parsers of mail and zip files, a megabyte of each process.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from oneagent.common import identifiers

_PREFIX: Final = f"{identifiers.DISTRIBUTION.replace('-', '_')}-"
_SUFFIX: Final = ".dist-info"


def version() -> str:
    """Return the version, as `1.2.3`; `unknown` if the distribution is not installed."""
    for place in sys.path:
        try:
            names = os.listdir(place or ".")
        except NotADirectoryError:
            names = _names_in_zip(place)
        except OSError:
            continue
        for name in names:
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                return name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return "unknown"


def _names_in_zip(place: str) -> list[str]:
    """Return the directories of a program that is one file."""
    import zipfile

    try:
        with zipfile.ZipFile(place) as archive:
            return [name.partition("/")[0] for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []
