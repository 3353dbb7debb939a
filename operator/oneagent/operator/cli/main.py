"""Command line of `kubectl oneagent`, which inspects a whole cluster and reads only.

Each subcommand is a function that takes the parsed flags and returns the exit code. Imports that one of them needs are
in it, so that `--help` is fast.
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

from oneagent.common import dynakube, flags, printable
from oneagent.common.kubernetes import fields
from oneagent.operator.cli.kubectl import Kubectl, KubectlError

PROGRAM: Final = "kubectl-oneagent"

_CODES: Final = """

exit code:
  0  {well}
  1  {ill}
  2  invalid command line, or no access to the cluster
"""
_STATUS: Final = (
    "Shows a table of nodes (driver, versions, views, failures, disk) and one of DynaKubes. The report of a node is\n"
    "read in its driver's pod."
    + _CODES.format(well="no problems", ill="problems with a node or a DynaKube, or its state is unknown")
)
_WHY: Final = (
    "Shows why a pod has its agent, or has none: one diagnosis, its remedy, and the evidence. It joins the webhook's\n"
    "decision, the namespace's DynaKube, the init container, Events, and the node's report about the volume, the view\n"
    "and the processes."
    + _CODES.format(
        well="the agent is loaded in all processes of the pod that have its view, or was installed in it without CSI",
        ill="it is not loaded, or that is unknown",
    )
)
_DOCTOR: Final = (
    "Checks the installation: CRD, webhooks and their certificates, workloads, images, the driver on every node,\n"
    "tokens, DynaKubes' conditions, labels of namespaces, leftovers. Each finding has a remedy."
    + _CODES.format(well="no findings, or only notes", ill="there are errors or warnings")
)
_ARCHIVE: Final = (
    "Writes a .tar.gz for support: versions, the installation's objects, Events, logs, reports of the nodes, and the\n"
    "doctor's findings. Secrets and ConfigMaps are listed by name and keys only, and text that looks like a token, a\n"
    "password or a key is redacted everywhere. Review it before you send it: it names your nodes, namespaces and pods."
    + _CODES.format(well="the archive is complete", ill="parts are missing, listed in problems.txt in the archive")
)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `kubectl oneagent`."""
    parser = flags.create_parser(PROGRAM, "Inspects the agents of a cluster, with the user's kubectl.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    _add_command(commands, "status", "state of nodes and DynaKubes", _STATUS).set_defaults(run=_status)
    command = _add_command(commands, "why", "why a pod has its agent, or has none", _WHY)
    command.add_argument("pod", type=flags.checked(_pod), metavar="namespace/pod", help="pod to diagnose")
    command.set_defaults(run=_why)
    _add_command(commands, "doctor", "problems of the installation, and their remedies", _DOCTOR).set_defaults(
        run=_doctor
    )
    command = _add_command(commands, "support-archive", "one file for support, without secrets", _ARCHIVE)
    command.add_argument(
        "--file",
        type=Path,
        metavar="…",
        help="file to write (default oneagent-support-TIME.tar.gz in the current directory)",
    )
    flags.adder(command)(
        "log-bytes", "2Mi", "limit of each container's log in bytes, of which the end is kept", parse=flags.size
    )
    command.add_argument(
        "--pod", type=flags.checked(_pod), action="append", default=[], metavar="namespace/pod",
        help="pod to diagnose as by why; repeatable",
    )  # fmt: skip
    command.set_defaults(run=_archive)
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, description: str
) -> argparse.ArgumentParser:
    """Add a subcommand with the common flags."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = flags.adder(parser)
    parser.add_argument(
        "-n", "--namespace", default=os.environ.get("ONEAGENT_NAMESPACE") or dynakube.DEFAULT_NAMESPACE, metavar="…",
        help=f"namespace of the installation (default {dynakube.DEFAULT_NAMESPACE}, or $ONEAGENT_NAMESPACE)",
    )  # fmt: skip
    parser.add_argument("--context", default="", metavar="…", help="kubectl's: context of the kubeconfig")
    parser.add_argument("--kubeconfig", default="", metavar="…", help="kubectl's: kubeconfig file")
    parser.add_argument("--as", default="", dest="user", metavar="…", help="kubectl's: user to impersonate")
    add("kubectl", "kubectl", "kubectl to run", env="ONEAGENT_KUBECTL")
    add("timeout", 30.0, "timeout of one call of kubectl", parse=flags.duration)
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="output format (default table)"
    )
    return parser


def _pod(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not (fields.is_dns_name(namespace) and fields.is_dns_name(name)):
        raise ValueError(f"{text!r} is not namespace/pod, for example shop/cart-0")
    return namespace, name


def _kubectl(args: argparse.Namespace) -> Kubectl:
    passed = {"--context": args.context, "--kubeconfig": args.kubeconfig, "--as": args.user}
    kubectl_flags = tuple(f"{flag}={value}" for flag, value in passed.items() if value)
    return Kubectl(args.kubectl, kubectl_flags, args.namespace, args.timeout)


def _write_json(report: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def _status(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import output, snapshot, status

    with output.progress("reading the cluster") as (report_progress, _):
        summary = status.summarize(snapshot.read(_kubectl(args), time.time(), report_progress, only=status.FIELDS))
    if args.output == "json":
        _write_json(status.to_json(summary))
    else:
        output.print_status(summary)
    return 0 if summary.is_healthy else 1


def _why(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import why
    from oneagent.operator.cli.why import collect as why_collect
    from oneagent.operator.cli.why import diagnose
    from oneagent.operator.cli.why import text as why_text

    evidence = why_collect.collect_evidence(_kubectl(args), *args.pod, now=time.time())
    diagnosis = diagnose.diagnose(evidence)
    if args.output == "json":
        _write_json(why.to_json(evidence, diagnosis))
    else:
        sys.stdout.write(why_text.render(evidence, diagnosis))
    return 0 if diagnosis.reason in why.AS_INTENDED else 1


def _doctor(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import doctor, output, snapshot
    from oneagent.operator.cli.doctor import checks

    with output.progress("reading the cluster") as (report_progress, _):
        report = checks.run_checks(snapshot.read(_kubectl(args), time.time(), report_progress))
    if args.output == "json":
        _write_json(doctor.to_json(report))
    else:
        output.print_doctor_report(report)
    return 0 if report.healthy else 1


def _archive(args: argparse.Namespace) -> int:
    from oneagent.operator.cli import output, snapshot, support_archive
    from oneagent.operator.cli.support_archive import collect

    now = time.time()
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    target = args.file or Path(f"oneagent-support-{stamp}.tar.gz")
    options = collect.ArchiveOptions(tuple(args.pod), args.log_bytes)
    client = _kubectl(args)
    try:
        with (
            output.progress("collecting") as (report_progress, add_steps),
            support_archive.create(target, now) as file,
        ):
            cluster = snapshot.read(client, now, report_progress)
            add_steps(collect.count_steps(cluster, options))
            collect.collect_archive(file, client, cluster, options, report_progress)
    except OSError as error:
        print(f"{PROGRAM}: --file: {target} can't be written: {error.strerror}", file=sys.stderr)
        return 2
    if args.output == "json":
        _write_json({"format": 1, "file": str(target), "members": file.members, "problems": file.problems})
    else:
        missing = f"; {len(file.problems)} parts missing, see problems.txt in it" if file.problems else ""
        sys.stdout.write(f"{target}: {len(file.members)} files{missing}. Review it before you send it.\n")
    return 1 if file.problems else 0


def main() -> int:
    """Run `kubectl oneagent`."""
    args = make_parser().parse_args()
    try:
        exit_code: int = args.run(args)
    except KubectlError as error:
        print(f"{PROGRAM}: no access to the cluster: {printable.mask_lines(str(error))}", file=sys.stderr)
        return 2
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
