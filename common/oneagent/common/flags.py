"""Flags with environment fall-backs, said once: name, default, meaning.

Every flag `--some-name` falls back to an environment variable (`ONEAGENT_SOME_NAME` unless it has a name of
its own). A value that can't be used ends the process with a message that names the flag and the value.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from oneagent.common import durations


class Add(Protocol):
    """Declares one flag. A `bool` default makes it a switch; `parse` turns text into the value."""

    def __call__(
        self,
        name: str,
        default: Any,
        meaning: str,
        *,
        parse: Callable[[str], Any] = str,
        env: str = "",
        choices: tuple[str, ...] = (),
    ) -> None: ...


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser without abbreviations: a mistyped flag is refused instead of guessed."""
    return argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)


def adder(to: argparse.ArgumentParser) -> Add:
    """The function that declares flags of this parser."""

    def add(
        name: str,
        default: Any,
        meaning: str,
        *,
        parse: Callable[[str], Any] = str,
        env: str = "",
        choices: tuple[str, ...] = (),
    ) -> None:
        variable = env or f"ONEAGENT_{name.upper().replace('-', '_')}"
        given = os.environ.get(variable, "")
        shown = f"{meaning} (default {_shown(default)}, or ${variable})"
        if isinstance(default, bool):
            is_set = default
            if given:
                if given not in {"true", "false"}:
                    to.error(f"${variable}: {given!r} is neither true nor false")
                is_set = given == "true"
            to.add_argument(
                f"--{name}",
                action=argparse.BooleanOptionalAction,
                default=is_set,
                help=f"{meaning} (or ${variable})",
            )
            return
        if given and choices and given not in choices:
            to.error(f"${variable}: {given!r} is none of {', '.join(choices)}")
        # argparse applies `type` to text defaults, so a bad variable is refused like a bad flag.
        to.add_argument(
            f"--{name}",
            default=given or default,
            type=parse,
            help=shown,
            metavar="…",
            choices=choices or None,
        )

    return add


def add_logging(add: Add) -> None:
    """The two flags that every command has."""
    add("log-format", "json", "json or text", choices=("json", "text"))
    add("log-level", "info", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))


def _shown(default: Any) -> str:
    if isinstance(default, float):
        return f"{default:g}s"
    return str(default) or "none"


def refusing(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser whose `ValueError` is shown to whoever gave the flag."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError(f"{text!r} is not an absolute path")
    return Path(os.path.normpath(path))


def _address(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if text and not (separator and port.isdigit() and int(port) < 65536 and "/" not in host):
        raise ValueError(f"{text!r} is not host:port, for example :8080 or 127.0.0.1:8080")
    return text


def _size(text: str) -> int:
    units = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
    number = text.rstrip("KMGTi")
    unit = text[len(number) :]
    if not number.isdigit() or unit not in units:
        raise ValueError(f"{text!r} is not a size such as 500Mi or 10Gi")
    return int(number) * units[unit]


def _count(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


duration = refusing(durations.parse)
absolute_path = refusing(_absolute)
address = refusing(_address)
count = refusing(_count)
size = refusing(_size)
"""Bytes from a number with an optional binary suffix."""
