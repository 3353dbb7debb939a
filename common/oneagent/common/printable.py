"""Text of others for a terminal or a log, without what could change the display or begin a new line.

Pods, tenants and registries choose names and messages that end there. Control characters move the cursor or recolour
the screen, line ends forge a second line, and marks of writing direction reorder what is read.
"""

from __future__ import annotations


def mask(text: str) -> str:
    """Return text with a question mark for each character that is not printable, line ends included."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def mask_lines(text: str) -> str:
    """Return text of several lines, each of them masked."""
    return "\n".join(map(mask, text.split("\n")))
