"""Progress bars on a terminal's stderr; elsewhere, and with TERM=dumb, they print nothing. Loads rich, 6 MiB."""

from __future__ import annotations

from rich import progress
from rich.console import Console


def create(console: Console) -> progress.Progress:
    """Return bars that count bytes, and disappear at the end."""
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=console, transient=True, disable=not console.is_interactive)
