"""State of one node: `collect` reads it, `problems` lists what an administrator has to solve, `tables` prints it."""

from __future__ import annotations

from typing import Final

MISSING: Final = "missing"
"""State of a version that is recorded, requested or mounted, but not in the store."""
UNRECORDED: Final = "unrecorded"
"""State of a view that is mounted without a row in the database."""
