"""How long a client waits before it asks again, so that a crowd of clients does not come back as one.

Every node of a cluster learns of a new version in the same second, and a server that has too much to do tells all of
them the same `Retry-After`. Each pause therefore has a part that is another one for each client.
"""

from __future__ import annotations

import random
from typing import Final

_LATER: Final = 0.5
"""So much longer than it was asked for, at most. Those that come late are fewer than those that come at once."""


def growing(failures: int, first: float, longest: float) -> float:
    """Seconds after so many failures in a row: twice as long each time, less up to a half."""
    return min(longest, first * 2.0 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)


def heeding(pause: float, retry_after: float | None) -> float:
    """The pause, but never less than the server asked for."""
    return max(pause, (retry_after or 0.0) * random.uniform(1.0, 1.0 + _LATER))
