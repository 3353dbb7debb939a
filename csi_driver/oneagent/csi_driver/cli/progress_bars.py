"""Progress bars on a terminal's stderr; elsewhere, and with TERM=dumb, they print nothing. Loads rich, 6 MiB."""

from __future__ import annotations

from typing import Final

from rich import progress
from rich.console import Console
from rich.table import Column

_LONGEST_TITLE: Final = 24
"""Characters: a version fits. An image's, of 77, would leave no room for the bar."""


def create(console: Console) -> progress.Progress:
    """Return bars that count bytes, each in one line, and disappear at the end."""
    columns = (
        progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=_LONGEST_TITLE)),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True, table_column=Column(no_wrap=True)),
        progress.TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    return progress.Progress(*columns, console=console, transient=True, disable=not console.is_interactive)
