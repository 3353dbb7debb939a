"""Texts of others change neither a terminal nor a log."""

from __future__ import annotations

import json
import logging

import pytest

from oneagent.common import logs, printable

HOSTILE = "ok\x1b[2J\x07\r\n12:00:00.000 error forged\x7f\x85\x9b31m\u2028\u202egnp\u200f\udcff\U000e0041 é 日本 🙂"
FORGED = "12:00:00.000 error forged"


def is_harmless(line: str) -> bool:
    return line.isprintable()


def record(message: str = "call failed", error: Exception | None = None, **fields: object) -> logging.LogRecord:
    found = logging.LogRecord("oneagent.x", logging.ERROR, __file__, 1, message, (), None)
    if error is not None:
        found.exc_info = (type(error), error, error.__traceback__)
    found.fields = fields
    return found


def test_what_is_printable_stays_and_the_rest_is_masked() -> None:
    assert printable.mask("é 日本 🙂") == "é 日本 🙂"
    assert is_harmless(printable.mask(HOSTILE))
    assert printable.mask("a\x1b[1mb\nc") == "a?[1mb?c"
    assert printable.mask_lines("a\x1b\nb\r") == "a?\nb?"


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
@pytest.mark.parametrize(
    "hostile", [record(HOSTILE), record(reason=HOSTILE), record(path=["x", HOSTILE]), record(at=ValueError(HOSTILE))]
)
def test_a_record_is_one_line_without_control_characters(
    formatter: logging.Formatter, hostile: logging.LogRecord
) -> None:
    line = formatter.format(hostile)
    assert is_harmless(line)
    line.encode()


def test_an_error_forges_no_line() -> None:
    text = logs.TextFormatter().format(record(error=ValueError(HOSTILE)))
    first, *trace = text.split("\n")
    assert first.endswith("call failed")
    assert any(FORGED in line for line in trace)
    assert all(line.startswith("  ") and is_harmless(line) for line in trace)
    assert is_harmless(logs.JsonFormatter().format(record(error=ValueError(HOSTILE))))


def test_json_still_holds_the_value() -> None:
    assert json.loads(logs.JsonFormatter().format(record(reason=HOSTILE)))["reason"] == HOSTILE
