"""Commands from the documentation's text, so that tests run exactly these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

INSTALL: Final = Path("docs/install.md").read_text()
DYNAKUBE: Final = Path("docs/dynakube.md").read_text()
MIGRATION: Final = Path("docs/migration.md").read_text()

_BLOCK: Final = re.compile(r"^ *```(?:\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEREDOC: Final = re.compile(r"(<<EOF\n).*?(^EOF$)", re.MULTILINE | re.DOTALL)


def blocks(page: str, heading: str) -> list[str]:
    """The code below a heading, block by block; `LookupError` if there is no such heading, or no code."""
    _, found, rest = page.partition(f"\n## {heading}\n")
    section = rest.partition("\n## ")[0]
    code = _BLOCK.findall(section)
    if not found or not code:
        raise LookupError(f"the page has no code below {heading!r}")
    return [str(block) for block in code]


def replaced(text: str, example: str, value: str) -> str:
    """The text with the user's own value in the place of the page's example; `LookupError` if it is not there."""
    if example not in text:
        raise LookupError(f"the page says nothing of {example!r}:\n{text}")
    return text.replace(example, value)


def with_manifest(commands: str, manifest: str) -> str:
    """The commands, applying another manifest."""
    return _HEREDOC.sub(lambda match: f"{match[1]}{manifest}{match[2]}", commands, count=1)
