"""Progress bars fit into terminals of all widths."""

from __future__ import annotations

import pytest
from rich.console import Console

from oneagent.csi_driver.cli import progress_bars

VERSION = "1.277.0.20230914-094321"
IMAGE = f"image-sha256-{'a' * 64}"


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("title", [VERSION, IMAGE])
def test_title_bar_and_size_share_one_line(title: str, columns: int) -> None:
    console = Console(width=columns, force_terminal=True, color_system=None)
    bars = progress_bars.create(console)
    bars.add_task(title, total=600 << 20, completed=300 << 20)
    with console.capture() as captured:
        console.print(bars.get_renderable())
    (line,) = captured.get().splitlines()
    assert line.startswith(title[:20])
    assert line.count("━") >= 5
    assert "300.0/600.0 MiB" in line
