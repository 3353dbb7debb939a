"""One event a line, as JSON or as text, with its details as fields.

Components log with the standard library: `log.info("view mounted", extra=logs.fields(volume=…, pod=…))`.
The caller lists the fields. Nothing logs a whole request, so no secret gets in.
Texts of others may be among the values, so characters that are not printable are masked or escaped.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Any, Final, Literal

from oneagent.common import printable

Format = Literal["json", "text"]

_FIELDS: Final = "fields"


def fields(**values: object) -> dict[str, object]:
    """Return the `extra` of a log call; fields that are `None` or empty are left out."""
    return {_FIELDS: {name: value for name, value in values.items() if value not in (None, "")}}


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", …fields, "error"}` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("oneagent."),
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _escape_json(json.dumps(line, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """`12:34:56.789 info  publish: view mounted  volume=… pod=…`, for reading in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]  # noqa: DTZ006
        details = "".join(f" {name}={value}" for name, value in getattr(record, _FIELDS, {}).items())
        name = record.name.rpartition(".")[2]
        text = f"{clock} {record.levelname.lower():7} {name}: {record.getMessage()} {details}".rstrip()
        lines = [text, *self._trace(record)]
        return "\n".join(map(printable.mask, lines))

    def _trace(self, record: logging.LogRecord) -> list[str]:
        """Return the lines of an exception, indented: its message must not look like a line of its own."""
        return [f"  {line}" for line in self.formatException(record.exc_info).splitlines()] if record.exc_info else []


def _escape_json(text: str) -> str:
    """Escape what JSON leaves as it is: everything outside of ASCII that is not printable, and DEL."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each).strip('"') for each in text)


def setup(log_format: Format, level: str) -> None:
    """Send every log line to stderr in the given format. Called once, by a command's `main`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These log at INFO what we log with our own fields, and URLs with their query.
    for chatty in ("httpx2", "httpcore2", "watchfiles", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
