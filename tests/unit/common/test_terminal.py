"""Tables never cut a name, and nothing but a terminal gets colours."""

from __future__ import annotations

import io

import pytest

from oneagent.common import terminal
from oneagent.common.terminal import Column, Screen

COLUMNS = (Column("pod"), Column("state", 1), Column("since", 2), Column("reason", 3, wraps=True))
ROWS = [
    ("shop/cart-6d5f9c7b8-x2k9q", "waiting", "5s", "the version is being downloaded from a tenant that is slow"),
    ("shop/db-0", "mounted", "2h", ""),
]


@pytest.mark.parametrize("width", [10, 30, 40, 60, 80, 200, None])
def test_names_are_never_cut(width: int | None) -> None:
    shown = list(terminal.table(COLUMNS, ROWS, Screen(width)))
    assert all(row[0] in "\n".join(shown) for row in ROWS)
    assert width is None or all(len(line) <= max(width, len(ROWS[0][0])) for line in shown)


def test_columns_of_the_greatest_rank_are_dropped_first() -> None:
    headers = [next(terminal.table(COLUMNS, ROWS, Screen(width))).split() for width in (200, 50, 40, 30)]
    assert headers == [["POD", "STATE", "SINCE", "REASON"], ["POD", "STATE", "SINCE"], ["POD", "STATE"], ["POD"]]


def test_the_last_column_wraps_below_itself() -> None:
    lines = list(terminal.table(COLUMNS, ROWS, Screen(72)))
    place = lines[0].index("REASON")
    assert len(lines) > 4
    assert {line[:place].strip() for line in lines[2:-1]} == {""}
    assert lines[-1].startswith("shop/db-0")


def test_a_column_without_content_is_left_out() -> None:
    assert "REASON" not in next(terminal.table(COLUMNS, [ROWS[1]], Screen()))


def test_a_row_in_a_file_is_one_line() -> None:
    assert len(list(terminal.table(COLUMNS, ROWS, Screen()))) == 3


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert terminal.of_stream(_Terminal()).paint("x", "red") == "\x1b[31mx\x1b[0m"
    assert terminal.of_stream(io.StringIO()).paint("x", "red") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.of_stream(_Terminal()).paint("x", "red") == "x"


def test_the_width_is_the_terminals_or_that_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.of_stream(io.StringIO()).width is None
    monkeypatch.setenv("COLUMNS", "66")
    assert terminal.of_stream(io.StringIO()).width == 66


def test_control_characters_do_not_reach_the_terminal() -> None:
    shown = [*Screen(20).wrap("a\x1b[2Jb"), *terminal.table([Column("x")], [("a\x07",)], Screen())]
    assert shown == ["a?[2Jb", "X", "a?"]
