"""The command `kubectl oneagent`: what a person asks of a whole cluster. It only reads, so it may be run at any time.

Each question is a subcommand: a function that takes the parsed flags and returns the exit code. What only one of them
needs is imported there: `--help` is for people who wait.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from oneagent.common import dynakube, flags
from oneagent.common.kubernetes import fields
from oneagent.operator.cli.kubectl import Kubectl, KubectlError

PROGRAM: Final = "kubectl-oneagent"

_CODES: Final = """

exit code:
  0  {well}
  1  {ill}
  2  the command line can't be used, or the cluster can't be asked at all
"""
_STATUS: Final = (
    "Shows all nodes in one table: driver, versions, views, failures, disk; and all DynaKubes in another. Each node is "
    "asked in its driver's pod."
    + _CODES.format(well="all is well", ill="a node or a DynaKube needs a person, or could not be asked")
)
_WHY: Final = (
    "Says why a pod has its agent, or has none: one verdict with what to do, and what it rests on. It joins what the\n"
    "webhook decided, whose the namespace is, the init container, Events, and what the pod's node says of the volume,\n"
    "the view and the processes."
    + _CODES.format(
        well="the agent is loaded in all processes of the pod that have its view, or was installed in it without CSI",
        ill="it is not, or that can't be told",
    )
)
_DOCTOR: Final = (
    "Checks the installation: CRD, webhooks and their certificates, workloads, images, the driver on every node,\n"
    "tokens, DynaKubes' conditions, labels of namespaces, leftovers. Each finding has what to do."
    + _CODES.format(well="nothing was found but notes", ill="there are errors or warnings")
)
_ARCHIVE: Final = (
    "Writes a .tar.gz for somebody who helps: versions, the product's objects, Events, logs, what each node says, and\n"
    "the doctor's findings. Secrets and ConfigMaps are in it by name and keys only, and what looks like a token, a\n"
    "password or a key is taken out wherever it stands. Look into it before you send it: it names your nodes,\n"
    "namespaces and pods."
    + _CODES.format(well="all of it is there", ill="some of it could not be had; problems.txt in the archive says what")
)


def make_parser() -> argparse.ArgumentParser:
    """The command line of `kubectl oneagent`."""
    parser = flags.create_parser(PROGRAM, "Answers questions about the agents of a cluster, by the user's kubectl.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    _command(commands, "status", "what each node has, and how each DynaKube does", _STATUS).set_defaults(run=_status)
    about = _command(commands, "why", "why a pod has its agent, or has none", _WHY)
    about.add_argument("pod", type=flags.checked(_pod), metavar="namespace/pod", help="the pod")
    about.set_defaults(run=_why)
    _command(commands, "doctor", "what is wrong with the installation", _DOCTOR).set_defaults(run=_doctor)
    about = _command(commands, "support-archive", "all of it in one file, without secrets", _ARCHIVE)
    about.add_argument(
        "--file", type=Path, metavar="…", help="file to write (default oneagent-support-TIME.tar.gz, in this folder)"
    )
    flags.adder(about)("log-bytes", "2Mi", "most of each container's log: its end", parse=flags.size)
    about.add_argument(
        "--pod", type=flags.checked(_pod), action="append", default=[], metavar="namespace/pod",
        help="a pod to look at as by why; may be repeated",
    )  # fmt: skip
    about.set_defaults(run=_archive)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, meaning: str, description: str
) -> argparse.ArgumentParser:
    """A subcommand with the flags that all have."""
    parser = commands.add_parser(
        name,
        help=meaning,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = flags.adder(parser)
    parser.add_argument(
        "-n", "--namespace", default=os.environ.get("ONEAGENT_NAMESPACE") or dynakube.DEFAULT_NAMESPACE, metavar="…",
        help=f"where the product is installed (default {dynakube.DEFAULT_NAMESPACE}, or $ONEAGENT_NAMESPACE)",
    )  # fmt: skip
    parser.add_argument("--context", default="", metavar="…", help="kubectl's: a context of the kubeconfig")
    parser.add_argument("--kubeconfig", default="", metavar="…", help="kubectl's: the kubeconfig file")
    parser.add_argument("--as", default="", dest="user", metavar="…", help="kubectl's: another user to be")
    add("kubectl", "kubectl", "the program to ask with", env="ONEAGENT_KUBECTL")
    add("timeout", 30.0, "how long one question may take", parse=flags.duration)
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="for people or for programs (default table)"
    )
    return parser


def _pod(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not (fields.is_dns_name(namespace) and fields.is_dns_name(name)):
        raise ValueError(f"{text!r} is not namespace/pod, for example shop/cart-0")
    return namespace, name


def _kubectl(args: argparse.Namespace) -> Kubectl:
    passed = {"--context": args.context, "--kubeconfig": args.kubeconfig, "--as": args.user}
    handed = tuple(f"{flag}={value}" for flag, value in passed.items() if value)
    return Kubectl(args.kubectl, handed, args.namespace, args.timeout)


def _write(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


def _status(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import output, snapshot, status

    with output.progress("reading the cluster") as (report_progress, _):
        found = status.summarize(snapshot.read(_kubectl(args), time.time(), report_progress, only=status.FIELDS))
    if args.output == "json":
        _write(status.to_json(found))
    else:
        output.show_status(found)
    return 0 if found.is_healthy else 1


def _why(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import why
    from oneagent.operator.cli.why import collect as why_collect
    from oneagent.operator.cli.why import diagnose
    from oneagent.operator.cli.why import text as why_text

    found = why_collect.collect_evidence(_kubectl(args), *args.pod, now=time.time())
    verdict = diagnose.diagnose(found)
    if args.output == "json":
        _write(why.to_json(found, verdict))
    else:
        sys.stdout.write(why_text.render(found, verdict))
    return 0 if verdict.reason in why.AS_INTENDED else 1


def _doctor(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import doctor, output, snapshot
    from oneagent.operator.cli.doctor import checks

    with output.progress("reading the cluster") as (report_progress, _):
        found = checks.run_checks(snapshot.read(_kubectl(args), time.time(), report_progress))
    if args.output == "json":
        _write(doctor.to_json(found))
    else:
        output.print_doctor_report(found)
    return 0 if found.healthy else 1


def _archive(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import output, snapshot, support_archive
    from oneagent.operator.cli.support_archive import collect

    now = time.time()
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    target = args.file or Path(f"oneagent-support-{stamp}.tar.gz")
    wanted = collect.ArchiveOptions(tuple(args.pod), args.log_bytes)
    client = _kubectl(args)
    try:
        with (
            output.progress("collecting") as (report_progress, add_steps),
            support_archive.written(target, now) as file,
        ):
            cluster = snapshot.read(client, now, report_progress)
            add_steps(collect.steps(cluster, wanted))
            collect.fill(file, client, cluster, wanted, report_progress)
    except OSError as error:
        print(f"{PROGRAM}: --file: {target} can't be written: {error.strerror}", file=sys.stderr)
        return 2
    if args.output == "json":
        _write({"format": 1, "file": str(target), "members": file.members, "problems": file.problems})
    else:
        missing = f"; {len(file.problems)} things could not be had, see problems.txt in it" if file.problems else ""
        sys.stdout.write(f"{target}: {len(file.members)} files{missing}. Look into it before you send it.\n")
    return 1 if file.problems else 0


def main() -> int:
    """The command `kubectl oneagent`."""
    args = make_parser().parse_args()
    try:
        exit_code: int = args.run(args)
    except KubectlError as error:
        print(f"{PROGRAM}: the cluster can't be asked: {error}", file=sys.stderr)
        return 2
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
