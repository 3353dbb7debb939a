"""Text for a terminal: its width, its colours, wrapped sentences and tables.

A file or a pipe gets lines of any length and no colours, so that `grep` finds a whole row. `COLUMNS` sets a width there
too. `NO_COLOR` turns colours off (https://no-color.org).

A table never cuts a cell. Where it is too wide, whole columns are dropped: those of the greatest rank first, and those
of rank 0 never. A column that wraps is the last one, and takes what room is left.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final

from oneagent.common import printable

_STYLES: Final[Mapping[str, str]] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
}
_WORDS_OF_SENTENCES: Final = {"and", "shows", "checks"}
_GAP: Final = "   "
_LEAST_WRAPPED: Final = 20
"""Characters of a line below which a column that wraps is dropped."""


@dataclass(frozen=True, slots=True)
class Screen:
    """Where text is shown."""

    width: int | None = None
    """Characters of a line; None: any number."""
    has_colours: bool = False

    def paint(self, text: str, style: str) -> str:
        """Return text in a style: bold, dim, red, green or yellow; as it is if the style is empty."""
        if not self.has_colours or not style or not text:
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    def wrap(self, text: str, first: str = "", indent: str = "") -> Iterator[str]:
        """Yield the lines of a sentence, the first one after `first`, the others after `indent`."""
        text = printable.mask(text)
        if self.width is None:
            yield f"{first}{text}"
            return
        yield from textwrap.wrap(
            text,
            max(self.width, len(first) + 1, len(indent) + 1),
            initial_indent=first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [first.rstrip()]

    def remedy(self, text: str, first: str = "", indent: str = "", end: str = "") -> Iterator[str]:
        """Yield the lines of a remedy and the end of its sentence.

        A remedy that is a command stays in one line, without an end: it is copied, and half of it might be run.
        """
        if _is_command(text):
            yield f"{first}{printable.mask(text)}"
        else:
            yield from self.wrap(f"{text}{end}", first, indent)


def _is_command(text: str) -> bool:
    words = text.split()
    is_sentence = any(word.endswith((";", ".", ",")) or word in _WORDS_OF_SENTENCES for word in words)
    return words[:1] == ["kubectl"] and not is_sentence


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    rank: int = 0
    """Columns of the greatest rank are dropped first, of rank 0 never."""
    wraps: bool = False
    styles: Mapping[str, str] | None = None
    """Style by content of a cell."""


def of_stream(stream: IO[str] | None = None) -> Screen:
    """Return the screen of a stream, by default of standard output."""
    target: IO[str] = sys.stdout if stream is None else stream
    is_terminal = target.isatty()
    has_colours = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if not is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        return Screen(None, has_colours)
    return Screen(shutil.get_terminal_size().columns, has_colours)


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], screen: Screen) -> Iterator[str]:
    """Yield the lines of a table with a header. Columns without any content are left out."""
    cells = [[printable.mask(cell) for cell in row] for row in rows]
    shown = [
        index
        for index, column in enumerate(columns)
        if not column.rank or any(row[index] for row in cells) or not cells
    ]
    widths = [max([len(column.title), *(len(row[index]) for row in cells)]) for index, column in enumerate(columns)]
    while screen.width is not None and _least_width(columns, shown, widths) > screen.width:
        last = max(shown, key=lambda index: (columns[index].rank, index))
        if not columns[last].rank:
            break
        shown.remove(last)
    yield screen.paint(
        _line([columns[index].title.upper() for index in shown], [widths[index] for index in shown]), "bold"
    )
    for row in cells:
        yield from _row(columns, shown, widths, row, screen)


def _least_width(columns: Sequence[Column], shown: Sequence[int], widths: Sequence[int]) -> int:
    needed = [min(widths[index], _LEAST_WRAPPED) if columns[index].wraps else widths[index] for index in shown]
    return sum(needed) + len(_GAP) * (len(needed) - 1)


def _row(
    columns: Sequence[Column], shown: Sequence[int], widths: Sequence[int], row: Sequence[str], screen: Screen
) -> Iterator[str]:
    plain = [index for index in shown if not columns[index].wraps]
    parts = []
    for index in plain:
        style = (columns[index].styles or {}).get(row[index], "")
        padding = " " * (widths[index] - len(row[index]))
        parts.append(screen.paint(row[index], style) + padding)
    start = _GAP.join(parts)
    wrapped = [index for index in shown if columns[index].wraps]
    if not wrapped:
        yield start.rstrip()
        return
    taken = sum(widths[index] + len(_GAP) for index in plain)
    room = Screen(None if screen.width is None else max(1, screen.width - taken))
    first, *rest = list(room.wrap(row[wrapped[0]])) or [""]
    yield f"{start}{_GAP}{first}".rstrip()
    yield from (f"{' ' * taken}{line}" for line in rest)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
