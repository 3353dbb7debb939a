"""Command-line flags with environment fall-backs: name, default and help in one place.

Every flag `--some-name` falls back to an environment variable (`ONEAGENT_SOME_NAME` unless it has a name of
its own). An unusable value ends the process with a message that names the flag and the value.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

from oneagent.common import addresses, durations


class _Parser(argparse.ArgumentParser):
    """Ends the process with one line, without the list of all flags that would hide it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; --help lists the flags\n")


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
    ) -> None: ...


def create_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Create a parser without abbreviations: a mistyped flag is refused instead of guessed."""
    return _Parser(prog=program, description=description, allow_abbrev=False)


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
    ) -> None:
        variable = env or f"ONEAGENT_{name.upper().replace('-', '_')}"
        from_env = os.environ.get(variable, "")
        shown = f"{help_text} (default {_format_default(default)}, or ${variable})"
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
            metavar="…",
            choices=choices or None,
        )

    return add


def add_logging(add: AddFlag) -> None:
    """Declare the two flags that every command has."""
    add("log-format", "json", "json or text", choices=("json", "text"))
    add("log-level", "info", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))


def _format_default(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}s"
    return str(default) or "none"


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
