"""Recordings of terminals in the documentation are small, follow the reader's settings, and show real commands."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from docs import recording

from oneagent.operator.cli import arguments

ROOT = Path(__file__).parents[3]
MAX_BYTES = 150 << 10
EVENTS = [
    (0.0, "\x1b[1m$ say\x1b[0m\r\n"),
    (0.2, "one \x1b[32mgreen\x1b[0m <line>\r\n\r\n"),
    (9.2, f"{'x' * 25}\r\n"),
]

each_recording = pytest.mark.parametrize("name", recording.RECORDINGS)


@each_recording
def test_a_picture_is_small_and_follows_the_readers_settings(name: str) -> None:
    path = recording.picture(name)
    text = path.read_text()
    assert path.stat().st_size <= MAX_BYTES
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    moving = text.partition("@media(prefers-reduced-motion:no-preference)")[2]
    assert text.count("animation:") == moving.count("animation:") == 2
    assert "@media(prefers-color-scheme:dark)" in text
    assert not re.search(r"(?:href|src|url)\W*https?:", text)


@each_recording
def test_a_picture_is_of_the_recordings_commands(name: str) -> None:
    shown = [line.removeprefix("$ ") for line in recording.read_picture(recording.picture(name)) if line[:2] == "$ "]
    assert tuple(shown) == recording.RECORDINGS[name].commands
    assert any(recording.RECORDINGS[name].still in line for line in recording.read_picture(recording.picture(name)))


def test_the_commands_exist() -> None:
    assert re.search(r"^run:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in recording.RECORDINGS["why"].commands:
        if command.startswith("kubectl oneagent "):
            assert arguments.make_parser().parse_args(command.split()[2:]).command == "why"


@pytest.mark.parametrize(
    ("page", "name"),
    [("README.md", "run"), ("docs/index.md", "run"), ("README.md", "why"), ("docs/commands.md", "why")],
)
def test_a_page_shows_it_with_a_description(page: str, name: str) -> None:
    assert re.search(rf"!\[[^\]]{{40,}}\]\((?:docs/)?{name}\.svg\)", (ROOT / page).read_text())


def test_lines_wrap_where_the_terminal_wraps_them_and_read_as_they_were_written(tmp_path: Path) -> None:
    lines = recording.to_lines(EVENTS, columns=20)
    assert [line.text for line in lines] == ["$ say", "one green <line>", "", "x" * 20, "x" * 5]
    assert [line.continues for line in lines] == [False, False, False, False, True]
    assert [span.classes for span in lines[1].spans] == ["", "g", ""]
    path = tmp_path / "say.svg"
    path.write_text(recording.draw(recording.Recording("say", ("say",), 20, 3, "green"), lines))
    assert recording.read_picture(path) == ["$ say", "one green <line>", "", "x" * 25]


def test_pauses_are_cut_and_lines_stay_long_enough_to_be_read() -> None:
    command, first, blank, late, rest, end = recording.schedule(recording.to_lines(EVENTS, columns=20))
    assert command < first == blank < late == rest < end
    assert first - command >= 1
    assert late - blank == 2
    assert end - rest >= 5


def test_what_writes_over_other_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        recording.to_lines([(0.0, "50 %\r100 %\r\n")], columns=20)
