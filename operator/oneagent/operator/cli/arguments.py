"""Command line of `kubectl oneagent`: commands, flags and their help, with the manners of kubectl.

Flags that all commands have may stand before the command or after it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Final

from oneagent.common import dynakube, flags
from oneagent.common.kubernetes import fields
from oneagent.operator.cli import completion

PROGRAM: Final = "kubectl-oneagent"
SAMPLE: Final = 20
"""Nodes whose full reports and logs are read unless others are named: all of a small cluster."""

WITH_OWN_FLAGS: Final = ("status", "why", "doctor", "support-archive")
"""Commands that have more than the flags of all."""

_SAMPLED: Final = f"node whose full report to read; repeatable (default: {SAMPLE} nodes, those with problems first)"
_CODES: Final = """

exit code:
  0  {well}
  1  {ill}
  2  invalid command line, or no access to the cluster
"""
_STATUS: Final = (
    "Shows a summary line, then each problem with its remedy. It checks the installed operator, webhook and driver,\n"
    "and the nodes' reports in their Leases. -o wide adds tables of components, DynaKubes and all nodes. --node reads\n"
    "a node's views, failed mounts and disk from its driver pod."
    + _CODES.format(well="nothing needs attention", ill="something does, or its state is unknown; nothing installed")
)
_WHY: Final = (
    "Shows why a pod has its agent, or has none: one diagnosis, its remedy, and the evidence. It joins the webhook's\n"
    "decision, the namespace's DynaKube, the init container, Events, and the node's report about the volume, the view\n"
    "and the processes. For a workload, such as deploy/cart, it diagnoses all pods and shows the worst one."
    + _CODES.format(
        well="the agent is loaded in all processes of the pod that have its view, or was installed in it without CSI",
        ill="it is not loaded",
    )
    + "  3  unknown: the node gives no report, or something may not be read\n"
)
_DOCTOR: Final = (
    "Checks the installation: CRD, webhooks and their certificates, workloads, images, the driver on every node,\n"
    "tokens, DynaKubes' conditions, labels of namespaces, leftovers. Each check has a mark, each finding a remedy."
    + _CODES.format(well="no findings, or only notes", ill="there are errors or warnings")
)
_ARCHIVE: Final = (
    "Writes a .tar.gz for support: versions, the installation's objects, Events, logs, reports of the nodes, and the\n"
    "doctor's findings. Secrets and ConfigMaps are listed by name and keys only, and text that looks like a token, a\n"
    "password or a key is redacted everywhere. Review it before you send it: it names your nodes, namespaces and pods."
    + _CODES.format(well="the archive is complete", ill="parts are missing, listed in problems.txt in the archive")
)
_VERSION: Final = "Shows the versions of this command, the operator, the webhook and the drivers." + _CODES.format(
    well="the versions are known", ill="the cluster's are not"
)
_COMPLETION: Final = (
    "Prints a script that completes commands, flags, pods and nodes. To complete kubectl oneagent, link\n"
    "kubectl_complete-oneagent in the PATH to kubectl-oneagent.\n\n"
    "  source <(kubectl oneagent completion bash)\n"
)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `kubectl oneagent`."""
    parser = flags.create_parser(PROGRAM, "Inspects the agents of a cluster, with the user's kubectl. Reads only.")
    _add_common(parser, is_top=True)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    command = _add_command(commands, "status", "what needs attention in the cluster", _STATUS, wide=True)
    _add_node(command, "show only this node, with its full report; repeatable")
    command.add_argument("--problems", action="store_true", help="show only what needs attention, without the summary")
    command.add_argument("-w", "--watch", action="store_true", help="repeat until Ctrl-C")
    command.add_argument(
        "--interval", type=flags.duration, default=5.0, metavar="DURATION", help="interval of --watch (default 5s)"
    )
    command = _add_command(commands, "why", "why a pod has its agent, or has none", _WHY)
    command.add_argument(
        "pod",
        type=flags.checked(parse_target),
        metavar="POD",
        help="pod to diagnose, or KIND/NAME of its workload, or NAMESPACE/POD",
    )
    command = _add_command(commands, "doctor", "checks of the installation, and remedies", _DOCTOR)
    _add_node(command, _SAMPLED)
    _add_archive(_add_command(commands, "support-archive", "one file for support, without secrets", _ARCHIVE))
    _add_command(commands, "version", "versions of this command and of the components", _VERSION)
    command = commands.add_parser("completion", help="script for a shell", description=_COMPLETION, **_FORMAT)
    command.add_argument("shell", choices=completion.SHELLS, help="bash, zsh or fish", metavar="SHELL")
    command = commands.add_parser(
        "help", help="help of a command", description="Shows the help of a command.", **_FORMAT
    )
    command.add_argument(
        "topic", nargs="?", default="", metavar="COMMAND", help="command to describe (default: all commands)"
    )
    return parser


_FORMAT: Final[dict[str, Any]] = {
    "formatter_class": flags.HelpFormatter,
    "allow_abbrev": False,
}


def parse_target(text: str) -> tuple[str, str]:
    """Return kind or namespace, and the name; `("", name)` of a pod alone."""
    first, slash, name = text.rpartition("/")
    if not fields.is_dns_name(name) or (slash and not fields.is_dns_name(first)):
        raise ValueError(f"{text!r} is no pod: give cart-0, shop/cart-0 or deploy/cart")
    return first, name


def _add_archive(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="file to write (default oneagent-support-TIME.tar.gz in the current directory)",
    )
    add = flags.adder(command)
    add("log-bytes", "2Mi", "maximum log size of each container in bytes; keeps the end", parse=flags.size)
    add("max-bytes", "500Mi", "maximum size of the contents before compression; 0: no limit", parse=flags.size)
    command.add_argument(
        "--pod", type=flags.checked(_pod), action="append", default=[], metavar="NAMESPACE/POD",
        help="pod to diagnose, as with why; repeatable",
    )  # fmt: skip
    _add_node(command, _SAMPLED)


def _add_node(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--node", type=flags.checked(_node), action="append", default=[], metavar="NODE", help=text)


def _add_command(
    commands: Any, name: str, summary: str, description: str, *, wide: bool = False
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description, **_FORMAT)
    _add_common(parser, name, is_top=False, wide=wide)
    return parser


def _add_common(parser: argparse.ArgumentParser, name: str = "", *, is_top: bool, wide: bool = True) -> None:
    """Add the flags of all commands; a command's own has no default, which would undo one before the command."""

    def add(*names: str, default: Any = "", **options: Any) -> None:
        parser.add_argument(*names, default=default if is_top else argparse.SUPPRESS, **options)

    text = "namespace of the pod that why diagnoses (default: that of kubectl's context)"
    add("-n", "--namespace", metavar="NAMESPACE", help=text if is_top or name == "why" else argparse.SUPPRESS)
    add(
        "--operator-namespace",
        default=os.environ.get("ONEAGENT_OPERATOR_NAMESPACE", ""),
        metavar="NAMESPACE",
        help=f"namespace of the installation (default: found, else {dynakube.DEFAULT_NAMESPACE}, "
        "or $ONEAGENT_OPERATOR_NAMESPACE)",
    )
    add("--context", metavar="NAME", help="kubectl's: context of the kubeconfig")
    add("--kubeconfig", metavar="FILE", help="kubectl's: kubeconfig file")
    add("--as", dest="user", metavar="USER", help="kubectl's: user to impersonate")
    add(
        "--kubectl",
        default=os.environ.get("ONEAGENT_KUBECTL") or "kubectl",
        metavar="PROGRAM",
        help="kubectl program to run (default kubectl, or $ONEAGENT_KUBECTL)",
    )
    add(
        "--timeout",
        default=os.environ.get("ONEAGENT_TIMEOUT") or "30s",
        type=flags.duration,
        metavar="DURATION",
        help="timeout of each kubectl call (default 30s, or $ONEAGENT_TIMEOUT)",
    )
    formats = ("wide", "json", "yaml") if wide else ("json", "yaml")
    text = f"output format: {', '.join(formats[:-1])} or {formats[-1]} (default text)"
    add("-o", "--output", choices=formats, metavar="FORMAT", help=text)


def _pod(text: str) -> tuple[str, str]:
    namespace, name = parse_target(text)
    if not namespace:
        raise ValueError(f"{text!r} is not NAMESPACE/POD, for example shop/cart-0")
    return namespace, name


def _node(text: str) -> str:
    if not fields.is_dns_name(text):
        raise ValueError(f"{text!r} is not the name of a node")
    return text
