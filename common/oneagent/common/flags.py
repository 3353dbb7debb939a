"""Command-line flags with environment fall-backs: name, default and help in one place.

Every flag `--some-name` falls back to an environment variable (`ONEAGENT_SOME_NAME` unless it has a name of
its own). An unusable value ends the process with a message that names the flag and the value.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from oneagent.common import addresses, distribution, durations, logs, report_output


class _Parser(argparse.ArgumentParser):
    """Ends the process with one line, without the list of all flags that would hide it; as JSON or YAML if requested.

    `--version` is recognized by the program itself, not by its subcommands.
    """

    def error(self, message: str) -> NoReturn:
        if output_format := report_output.find_requested(sys.argv):
            sys.stdout.write(report_output.render_error("InvalidCommandLine", message, output_format))
            self.exit(2)
        self.exit(2, f"{self.prog}: error: {message}; --help lists the flags\n")


class _DaemonParser(_Parser):
    """Ends the process with one line in the form of its log, which is what reads the errors of a daemon."""

    def error(self, message: str) -> NoReturn:
        _set_up_log(sys.argv)
        logging.getLogger("oneagent.flags").error("invalid command line", extra=logs.fields(reason=message))
        self.exit(2)


class _PrintVersion(argparse.Action):
    """Reads the version only when it is requested, because that reads directories."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        sys.stdout.write(f"{parser.prog} {distribution.version()}\n")
        parser.exit()


class HelpFormatter(argparse.HelpFormatter):
    """Wraps the paragraphs of a description to the terminal's width, and keeps the lines of indented ones."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(self._fill_paragraph(paragraph, width) for paragraph in text.strip("\n").split("\n\n"))

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)

    def _fill_paragraph(self, paragraph: str, width: int) -> str:
        filled: list[str] = []
        for line in paragraph.splitlines():
            # A line of a paragraph goes on in the next one, an indented one or a title such as `exit code:` does not.
            is_plain = filled and not line.startswith(" ") and not filled[-1].startswith(" ")
            if is_plain or (filled and line.startswith("    ")):
                filled[-1] += f" {line.strip()}"
            else:
                filled.append(line)
        return "\n".join(textwrap.fill(line, width, **_wrapping(line)) for line in filled)


def _wrapping(line: str) -> dict[str, Any]:
    hanging = "     " if line.startswith("  ") else ""
    return {"subsequent_indent": hanging, "break_long_words": False, "break_on_hyphens": False}


class AddFlag(Protocol):
    """Declares one flag. A `bool` default makes it a switch; `parse` turns text into the value."""

    def __call__(
        self,
        name: str,
        default: Any,
        help_text: str,
        *,
        parse: Callable[[str], Any] = str,
        env: str = "",
        choices: tuple[str, ...] = (),
        metavar: str = "",
    ) -> None: ...


def create_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Create a parser without abbreviations: a mistyped flag is refused instead of guessed."""
    parser = _Parser(prog=program, description=description, allow_abbrev=False, formatter_class=HelpFormatter)
    parser.add_argument("--version", action=_PrintVersion, nargs=0, default=argparse.SUPPRESS, help="print the version")
    return parser


def create_daemon_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Create the parser of a daemon, which reports an invalid command line in its log."""
    parser = _DaemonParser(prog=program, description=description, allow_abbrev=False, formatter_class=HelpFormatter)
    parser.add_argument("--version", action=_PrintVersion, nargs=0, default=argparse.SUPPRESS, help="print the version")
    return parser


def run_daemon(run: Callable[[], int]) -> int:
    """Run a daemon and return its exit code. A text that ends it is a line of its log: 2 if that begins with a flag."""
    try:
        return run()
    except SystemExit as stop:
        if not isinstance(stop.code, str):
            raise
        if not logging.getLogger().handlers:
            _set_up_log(sys.argv)
        logging.getLogger("oneagent.flags").error("not started", extra=logs.fields(reason=stop.code))
        return 2 if stop.code.startswith("--") else 1


def _set_up_log(arguments: Sequence[str]) -> None:
    """Log in the format of a command line that may be invalid otherwise."""
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("--log-format=")]
    given += [after for word, after in itertools.pairwise(arguments) if word == "--log-format"]
    is_text = (given or [os.environ.get("ONEAGENT_LOG_FORMAT", "")])[-1] == "text"
    logs.setup("text" if is_text else "json", "info")


def adder(parser: argparse.ArgumentParser) -> AddFlag:
    """Return the function that declares flags of this parser."""

    def add(
        name: str,
        default: Any,
        help_text: str,
        *,
        parse: Callable[[str], Any] = str,
        env: str = "",
        choices: tuple[str, ...] = (),
        metavar: str = "",
    ) -> None:
        variable = env or f"ONEAGENT_{name.upper().replace('-', '_')}"
        from_env = os.environ.get(variable, "")
        shown = f"{help_text} (default {_format_default(default, parse)}, or ${variable})"
        if isinstance(default, bool):
            is_set = default
            if from_env:
                if from_env not in {"true", "false"}:
                    parser.error(f"${variable}: {from_env!r} is neither true nor false")
                is_set = from_env == "true"
            parser.add_argument(
                f"--{name}",
                action=argparse.BooleanOptionalAction,
                default=is_set,
                help=f"{help_text} (or ${variable})",
            )
            return
        if from_env and choices and from_env not in choices:
            parser.error(f"${variable}: {from_env!r} is none of {', '.join(choices)}")
        # argparse applies `type` to text defaults, so a bad variable is refused like a bad flag.
        parser.add_argument(
            f"--{name}",
            default=from_env or default,
            type=parse,
            help=shown,
            metavar=metavar or (None if choices else _metavar(name, parse)),
            choices=choices or None,
        )

    return add


def add_logging(add: AddFlag) -> None:
    """Declare the two flags that every command has."""
    add("log-format", "json", "log format: json or text", choices=("json", "text"))
    add("log-level", "info", "log level: debug, info, warning or error", choices=("debug", "info", "warning", "error"))


def _metavar(name: str, parse: Callable[[str], Any]) -> str:
    return _METAVARS.get(parse) or _METAVARS_BY_NAME.get(name.rpartition("-")[2], "TEXT")


def _format_default(default: Any, parse: Callable[[str], Any]) -> str:
    """Return a default as it may be typed."""
    if parse is duration and isinstance(default, (int, float)):
        return durations.render(default)
    if parse is size and isinstance(default, int):
        return _render_size(default)
    return str(default) or "none"


def _render_size(size_bytes: int) -> str:
    units = ("", "Ki", "Mi", "Gi", "Ti")
    power = next((power for power in (4, 3, 2, 1) if size_bytes and not size_bytes % (1 << 10 * power)), 0)
    return f"{size_bytes >> 10 * power}{units[power]}"


def checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap a parser so that argparse shows its `ValueError` to the user."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def _parse_absolute_path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError(f"{text!r} is not an absolute path")
    return Path(os.path.normpath(path))


def _parse_address(text: str) -> str:
    try:
        if text:
            addresses.split(text)
    except addresses.AddressError:
        raise ValueError(f"{text!r} is not host:port, for example :8080, 127.0.0.1:8080 or [::1]:8080") from None
    return text


def _parse_size(text: str) -> int:
    units = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
    number = text.rstrip("KMGTi")
    unit = text[len(number) :]
    if not number.isdigit() or unit not in units:
        raise ValueError(f"{text!r} is not a size such as 500Mi or 10Gi")
    return int(number) * units[unit]


def _parse_count(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


duration = checked(durations.parse)
absolute_path = checked(_parse_absolute_path)
address = checked(_parse_address)
count = checked(_parse_count)
size = checked(_parse_size)
"""Bytes from a number with an optional binary suffix."""

_METAVARS: Final = {
    duration: "DURATION",
    size: "SIZE",
    count: "NUMBER",
    absolute_path: "PATH",
    address: "HOST:PORT",
}
"""The value that a flag takes, by its parser."""
_METAVARS_BY_NAME: Final = {
    "ca": "PATH",
    "directory": "PATH",
    "endpoint": "ADDRESS",
    "id": "NAME",
    "identity": "NAME",
    "image": "IMAGE",
    "lease": "NAME",
    "namespace": "NAMESPACE",
    "secret": "NAME",
    "secrets": "NAMES",
    "service": "NAME",
    "taint": "KEY:EFFECT",
    "version": "VERSION",
}
"""The same of flags that take text, by the last word of their name."""
