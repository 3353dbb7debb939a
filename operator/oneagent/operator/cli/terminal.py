"""What others have written, fit for a terminal: whoever may create pods chooses annotations and messages."""

from __future__ import annotations


def plain(text: str) -> str:
    """The same without control characters, by which it could change what else is seen there."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
