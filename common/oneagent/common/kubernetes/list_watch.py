"""What list and watch of an API server's objects take, whatever the objects and whoever the client.

Between attempts there is always a pause with full jitter, longer with each failure: a fleet of nodes that lost its
API server at the same moment must not come back at the same moment. The bytes of a stream are split at newlines by
hand: text lines would also be split at U+2028, which JSON may hold.
"""

from __future__ import annotations

from typing import Final

STOOD_SECONDS: Final = 5.0
"""A watch that stood for so long was no failure."""
FRUITLESS_BEFORE_LIST: Final = 3
"""After so many attempts in a row that bring nothing the set is listed anew."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0


class Lines:
    """Whole lines of one stream; what a cut leaves of the last one is dropped, the next watch brings it again."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def add(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk."""
        start = len(self._rest)
        self._rest += chunk
        if self._rest.find(b"\n", start) < 0:
            return []
        *whole, self._rest = self._rest.split(b"\n")
        return [bytes(line) for line in whole if line.strip()]
