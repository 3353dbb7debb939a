"""References of images, as container runtimes take them: `registry.example.com:5000/agents/one:1.2@sha256:…`."""

from __future__ import annotations

import re
from typing import Final

_SEGMENT: Final = r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"

IMAGE: Final = re.compile(
    r"(?=.{1,512}$)"
    r"([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?/)?"  # registry
    rf"{_SEGMENT}(/{_SEGMENT})*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(@[A-Za-z][A-Za-z0-9]*:[0-9a-fA-F]{32,})?"
)
