"""Text for a terminal, without rich, which takes longer to load than most texts to print."""

from __future__ import annotations


def strip_control(text: str) -> str:
    """Replace control characters in texts of other users, which could change what a terminal shows."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
