"""JSON and YAML of a report have the same fields, whatever values the report has."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest
import yaml

from oneagent.common import report_output


class Mark(enum.StrEnum):
    WARNING = "warning"


REPORT: dict[str, Any] = {
    "format": 1,
    "mark": Mark.WARNING,
    "rows": ({"name": "größe: 1", "empty": None}, {"yes": "no", "when": "2024-01-01T00:00:00Z"}),
}


def test_yaml_reads_as_json_does(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for name in report_output.FORMATS:
        report_output.write(REPORT, name)
        texts.append(capsys.readouterr().out)
    as_json, as_yaml = texts
    assert yaml.safe_load(as_yaml) == json.loads(as_json) == json.loads(json.dumps(REPORT))
    assert as_json.startswith('{\n  "format": 1,')
    assert as_yaml.startswith("format: 1\nmark: warning\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("status", ""),
        ("status -o json", "json"),
        ("status -ojson --nothing", "json"),
        ("-o=yaml status", "yaml"),
        ("status --output=yaml", "yaml"),
        ("status --output yaml", "yaml"),
        ("status -o wide", ""),
        ("why json", ""),
        ("status -o jsonpath", ""),
    ],
)
def test_a_command_line_tells_its_format_also_if_it_is_invalid(words: str, expected: str) -> None:
    assert report_output.find_requested(words.split()) == expected


def test_an_error_reads_the_same_in_both() -> None:
    as_json, as_yaml = (report_output.render_error("NotReadable", "no: such file", name) for name in ("json", "yaml"))
    assert json.loads(as_json) == yaml.safe_load(as_yaml)
    assert json.loads(as_json)["error"] == {"reason": "NotReadable", "message": "no: such file"}
