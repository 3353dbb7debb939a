"""Writes the tables of configuration.md from the commands' parsers: `python docs/generate.py`.

A table is between `<!-- flags of NAME -->` and `<!-- end -->`; the text around it is written by hand. For the init
container, which has environment variables instead of flags, it is `<!-- variables of install-oneagent -->`. A test
compares the page with the commands.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn
from unittest import mock

from oneagent.csi_driver.cli import main as node
from oneagent.csi_driver.provisioner import main as provisioner
from oneagent.csi_driver.server import main as server
from oneagent.operator import main as operator
from oneagent.operator.cli import arguments as cluster
from oneagent.sidecars import livenessprobe, registrar
from oneagent.sidecars.init_container import settings as init_settings
from oneagent.webhook import main as webhook

FILE: Final = Path(__file__).with_name("configuration.md")

_TABLE: Final = re.compile(r"(<!-- flags of (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_VARIABLES_TABLE: Final = re.compile(r"(<!-- variables of install-oneagent -->\n).*?(<!-- end -->)", re.DOTALL)
_VARIABLE: Final = re.compile(r"(?:, )?or \$(\w+)\)$")
_DEFAULT: Final = re.compile(r" \(default:? ([^)]*)\)?$")


class _ParserBuiltError(Exception):
    """Carries a parser out of the function that builds it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser(build: Callable[[], Any]) -> argparse.ArgumentParser:
    """The parser that a command reads its command line with, built without any of its variables set."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _ParserBuiltError(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop), mock.patch.dict(os.environ, clear=True):
        try:
            build()
        except _ParserBuiltError as built:
            return built.parser
    raise AssertionError("the command did not read its command line")


def _subcommands(build: Callable[[], argparse.ArgumentParser]) -> dict[str, argparse.ArgumentParser]:
    """Of a command for people, by their full names."""
    with mock.patch.dict(os.environ, clear=True):
        parser = build()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {f"{parser.prog}-{name}": command for name, command in commands.choices.items()}


def _parsers_for_people() -> dict[str, argparse.ArgumentParser]:
    """Of those about clusters the program itself, with the flags of all, and the commands that have more."""
    with mock.patch.dict(os.environ, clear=True):
        program = cluster.make_parser()
    commands = _subcommands(cluster.make_parser)
    shown = {f"{program.prog}-{name}": commands[f"{program.prog}-{name}"] for name in cluster.WITH_OWN_FLAGS}
    of_nodes = {name: parser for name, parser in _subcommands(node.make_parser).items() if not name.endswith("-help")}
    return of_nodes | {program.prog: program} | shown


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The commands, by name."""
    return {
        "oneagent-csi-server": _parser(server.parse),
        "oneagent-csi-provisioner": _parser(provisioner.parse),
        "oneagent-operator": _parser(operator.parse),
        "oneagent-webhook": _parser(webhook.parse),
        "csi-node-driver-registrar": _parser(lambda: registrar.read_settings([])),
        "livenessprobe": _parser(lambda: livenessprobe.read_settings([])),
        **_parsers_for_people(),
    }


def rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str, str]]:
    """Flag, variable, default and meaning of each flag."""
    for action in parser._actions:
        is_elsewhere = action.default == argparse.SUPPRESS  # in the table of the program itself
        if action.help in {None, argparse.SUPPRESS} or is_elsewhere or isinstance(action, argparse._SubParsersAction):
            continue
        if {"--help", "--version"} & {*action.option_strings} and action.nargs == 0:
            continue
        meaning, variable, default = str(action.help), "", ""
        if found := _VARIABLE.search(meaning):
            variable = found[1]
            meaning = meaning[: found.start()].rstrip(" (")
        if found := _DEFAULT.search(meaning):
            default = found[1]
            meaning = meaning[: found.start()]
        elif isinstance(action.default, bool):
            default = "off"
        elif action.default:
            default = str(action.default)
        default = "" if default == "none" else default
        flags = ", ".join(f"`{option}`" for option in action.option_strings or (str(action.metavar or action.dest),))
        yield flags, f"`{variable}`" if variable else "", f"`{default}`" if default else "", meaning


def table(parser: argparse.ArgumentParser) -> str:
    """The rows as Markdown; without a column for variables if there are none."""
    found = list(rows(parser))
    shown = [0, 1, 2, 3] if any(row[1] for row in found) else [0, 2, 3]
    header = ("flag", "environment", "default", "meaning")
    lines = [[header[column] for column in shown], ["---" for _ in shown]]
    lines += [[row[column].replace("|", "\\|") for column in shown] for row in found]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def variables() -> str:
    """What the webhook tells the init container."""
    lines = [
        ("variable", "meaning"),
        ("---", "---"),
        *((f"`{name}`", meaning) for name, meaning in init_settings.VARIABLES),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def render(text: str) -> str:
    """The document with its tables as they have to be."""
    known = parsers()
    text = _TABLE.sub(lambda match: match[1] + "\n" + table(known[match[2]]) + "\n" + match[3], text)
    return _VARIABLES_TABLE.sub(lambda match: match[1] + "\n" + variables() + "\n" + match[2], text)


if __name__ == "__main__":
    FILE.write_text(render(FILE.read_text()))
