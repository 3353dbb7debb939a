"""Reports of the command lines for programs: JSON and YAML, which have the same fields."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

FORMATS: Final = ("json", "yaml")


def render(report: Mapping[str, Any], output_format: str) -> str:
    """Return a report in one of `FORMATS`."""
    if output_format == "yaml":
        import yaml

        # By way of JSON: YAML would write an enum or a tuple as an object of Python.
        return str(yaml.safe_dump(json.loads(json.dumps(report)), sort_keys=False, allow_unicode=True))
    return json.dumps(report, indent=2) + "\n"


def render_error(reason: str, message: str, output_format: str) -> str:
    """Return an error in one of `FORMATS`; `reason` is a CamelCase word for programs."""
    return render({"format": 1, "error": {"reason": reason, "message": message}}, output_format)


def write(report: Mapping[str, Any], output_format: str) -> None:
    """Write a report to standard output, in one of `FORMATS`."""
    sys.stdout.write(render(report, output_format))


def find_requested(arguments: Sequence[str]) -> str:
    """Return the format that a command line asks for, also if it is invalid otherwise; empty for text."""
    given = " ".join(arguments)
    return next((name for name in FORMATS if re.search(rf"(?:^| )(?:-o ?=?|--output[ =]){name}(?: |$)", given)), "")
