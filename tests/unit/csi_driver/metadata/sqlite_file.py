"""The database's file as another process sees it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def table(path: Path) -> dict[str, str]:
    """Return the state of each volume by its id."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT id, state FROM volumes"))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other connections from writing for as long."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
