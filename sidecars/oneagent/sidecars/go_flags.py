"""Command lines as Go's `flag` package reads them: `-name`, `--name`, `=value` or the next word.

The sidecars take over the command lines of the Go programs they stand in for. So flags without a meaning here
(logging and runtime knobs of Go) are accepted and ignored, unlike unknown ones, which end the program with 2.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from oneagent.common import distribution, durations, logs

_IGNORED_SWITCHES: Final = (
    "add_dir_header",
    "alsologtostderr",
    "automaxprocs",
    "legacy_stderr_threshold_behavior",
    "log-json-split-stream",
    "log-text-split-stream",
    "logtostderr",
    "one_output",
    "skip_headers",
    "skip_log_headers",
)
_IGNORED_VALUES: Final = (
    "log-flush-frequency",
    "log-json-info-buffer-size",
    "log-text-info-buffer-size",
    "log_backtrace_at",
    "log_dir",
    "log_file",
    "log_file_max_size",
    "stderrthreshold",
    "v",
    "vmodule",
)


class Flags(argparse.ArgumentParser):
    """The flags of one sidecar; `switch` and `add_argument` declare them, `read` reads a command line."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=command, description=description, allow_abbrev=False)
        self.switch("version", "print the version and exit")
        self.add_argument(
            "--log-format",
            "--logging-format",
            choices=("json", "text"),
            default="json",
            help="log format on stderr: json or text (default json)",
        )
        for name in _IGNORED_SWITCHES:
            self.switch(name)
        for name in _IGNORED_VALUES:
            self.add_argument(f"--{name}", help=argparse.SUPPRESS)

    def take(self, *names: str, **options: Any) -> None:
        """A flag with a value, whose help names what it takes."""
        kind = names[0].rpartition("-")[2]
        metavar = _METAVARS.get(options.get("type")) or {"path": "PATH", "mode": "MODE"}.get(kind, "ADDRESS")
        self.add_argument(*names, **{"metavar": metavar, **options})

    def switch(self, name: str, text: str = argparse.SUPPRESS) -> None:
        """A boolean: `--name` or `--name=true|false`."""
        self.add_argument(f"--{name}", nargs="?", const=True, default=False, type=_boolean, help=text, metavar="true")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; ends the program for `--help`, `--version` and invalid arguments."""
        doubled = [f"-{word}" if re.match(r"-[a-zA-Z_]{2}|-v", word) else word for word in arguments]
        options = self.parse_args(doubled)
        if options.version:
            sys.stdout.write(f"{self.prog} {distribution.version()}\n")
            sys.exit(0)
        return options

    def error(self, message: str) -> NoReturn:
        """End the program with 2 and one line in the form of its log."""
        is_text = any(re.fullmatch(r"--?log(ging)?-format=text", word) for word in sys.argv)
        logs.setup("text" if is_text else "json", "info")
        logging.getLogger("oneagent.flags").error("invalid command line", extra=logs.fields(reason=message))
        self.exit(2)

    def refuse(self, reason: str) -> NoReturn:
        """End the program with 2 because of an invalid combination of values."""
        self.error(reason)


def seconds(text: str) -> float:
    """A positive Go duration."""
    try:
        value = durations.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be longer than nothing")
    return value


def port(text: str) -> int:
    """A TCP port, 0 for none."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _boolean(text: str) -> bool:
    # The values that Go's strconv.ParseBool accepts.
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


_METAVARS: Final[dict[Any, str]] = {seconds: "DURATION", port: "PORT"}
