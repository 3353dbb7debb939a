"""Completion in a shell: scripts for bash, zsh and fish, and the candidates that they ask for.

kubectl completes a plugin by a program `kubectl_complete-NAME`, which gets the words and prints a candidate a line,
then `:4`, which keeps the shell from adding file names. The scripts ask in the same way, by the hidden command
`__complete`. Pods and nodes are read with the user's kubectl; a cluster without a quick answer has none.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

SHELLS: Final = ("bash", "zsh", "fish")
PROGRAM: Final = "kubectl_complete"
"""Beginning of the name by which kubectl calls this command for candidates."""
COMMAND: Final = "__complete"
_TIMEOUT_SECONDS: Final = 3
_NO_FILES: Final = ":4"
_FILES: Final = ":0"
_VALUES: Final[Mapping[str, str]] = {
    "--node": "nodes",
    "--namespace": "namespaces",
    "-n": "namespaces",
    "--operator-namespace": "namespaces",
}
"""Flags whose values are names of a kind."""
_KUBECTL_FLAGS: Final = ("--context", "--kubeconfig", "--as")

_SCRIPTS: Final[Mapping[str, str]] = {
    "bash": """\
_kubectl_oneagent() {
    local words
    mapfile -t words < <(kubectl-oneagent __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    [[ ${words[-1]} == :0 ]] && compopt -o default
    unset 'words[-1]'
    COMPREPLY=("${words[@]}")
}
complete -F _kubectl_oneagent kubectl-oneagent
""",
    "zsh": """\
#compdef kubectl-oneagent
_kubectl_oneagent() {
    local -a found
    found=("${(@f)$(kubectl-oneagent __complete "${words[@]:1:$((CURRENT - 1))}" 2>/dev/null)}")
    [[ ${found[-1]} == :0 ]] && _files
    found[-1]=()
    compadd -a found
}
compdef _kubectl_oneagent kubectl-oneagent
""",
    "fish": """\
function __kubectl_oneagent
    set -l words (commandline -opc) (commandline -ct)
    kubectl-oneagent __complete $words[2..-1] 2>/dev/null | string match -v ':*'
end
complete -c kubectl-oneagent -f -a '(__kubectl_oneagent)'
""",
}


def script(shell: str) -> str:
    """Return the script to source."""
    return _SCRIPTS[shell]


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of a parser by name."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


def print_candidates(words: Sequence[str]) -> int:
    """Print what the last word may become; the exit code."""
    from oneagent.operator.cli import arguments

    found, directive = _candidates(arguments.make_parser(), list(words) or [""])
    last = words[-1] if words else ""
    sys.stdout.write("".join(f"{one}\n" for one in [*(one for one in found if one.startswith(last)), directive]))
    return 0


def _candidates(parser: argparse.ArgumentParser, words: list[str]) -> tuple[list[str], str]:
    *before, last = words
    commands = subcommands(parser)
    command = next((word for word in before if word in commands), "")
    actions = _actions(commands[command] if command else parser)
    previous = actions.get(before[-1]) if before else None
    if previous is not None and previous.nargs != 0:
        return _values(previous, before)
    if last.startswith("-"):
        return sorted(actions), _NO_FILES
    if not command:
        return sorted(commands), _NO_FILES
    words_of = {
        "completion": lambda: list(SHELLS),
        "help": lambda: sorted(commands),
        "why": lambda: _names(before, "pods"),
    }
    return words_of.get(command, list)(), _NO_FILES


def _values(flag: argparse.Action, before: Sequence[str]) -> tuple[list[str], str]:
    if flag.choices is not None:
        return list(flag.choices), _NO_FILES
    kind = next((_VALUES[option] for option in flag.option_strings if option in _VALUES), "")
    return (_names(before, kind), _NO_FILES) if kind else ([], _FILES)


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {option: action for action in parser._actions for option in action.option_strings}


def _names(words: Sequence[str], kind: str) -> list[str]:
    """Read the names of objects; nothing without a quick answer."""
    flags = list(_kubectl_flags(words, _KUBECTL_FLAGS))
    if kind == "pods":
        flags += _kubectl_flags(words, ("-n", "--namespace"))
    program = next((flag.partition("=")[2] for flag in _kubectl_flags(words, ("--kubectl",))), "kubectl")
    command = [program, *flags, "get", kind, "-o", "name"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.rpartition("/")[2] for line in done.stdout.splitlines()]


def _kubectl_flags(words: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Yield the flags among the words that have these names, as `--name=value`."""
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names and (equals or at + 1 < len(words)):
            yield f"{'--namespace' if name == '-n' else name}={value if equals else words[at + 1]}"
