"""Command line of `oneagent-csi`: `status`, `why` and `verify` read a node, `preload` puts a package into its store.

Each subcommand is a function that takes the parsed flags and returns the exit code.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from oneagent.common import flags, identifiers, node_report, printable, report_output, terminal
from oneagent.common.identifiers import Version
from oneagent.common.oci import reference as oci_reference
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.cli import why
from oneagent.csi_driver.cli.errors import CommandError, explain_access
from oneagent.csi_driver.cli.status import collect, problems, tables
from oneagent.csi_driver.cli.why import collect as why_collect
from oneagent.csi_driver.cli.why import diagnose
from oneagent.csi_driver.cli.why import text as why_text
from oneagent.csi_driver.data_dir import DataDir, UnsafeNameError
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.linux.clock import SteadyClock

CANNOT_TELL: Final = 3
"""Exit code of `why` for a pod of which it is not known if it has its agent."""
_INTERRUPTED: Final = 130

_STATUS: Final = """\
Shows the agent versions, volumes, failures, DynaKubes and disk of this node. Reads only. Run it in the server's
container, where the driver's mounts are visible. Without a readable metadata database it shows everything else.

exit code:
  0  no problems, or only work in progress
  1  problems that an administrator has to solve, listed under "needs attention" ("problems" in JSON): the data
     directory or the database is unreadable, server or provisioner is not running, a version can't be installed or
     is corrupt, a DynaKube gets no version, a pod waits after a failed mount attempt, a pod runs with an empty view
     or lost its view, or little disk space is left
  2  invalid command line, or no data directory
"""

_WHY: Final = """\
Shows why a pod on this node has its agent, or has none: one diagnosis, its remedy, and the evidence. It joins the
pod's volume in the metadata database, its view in the mount table, and the memory maps of its processes. The
webhook's decision is in the pod's annotations, which only kubectl oneagent why reads.

Reads only. In the server's container --proc is set by its variable. Elsewhere run it as root, with --proc and
--mount-table of the node.

exit code:
  0  the agent is loaded in all processes of the pod that have its view, or the pod is a host agent
  1  it is not loaded
  2  invalid command line, or no data directory
  3  unknown: its volume, view or processes can't be read
"""

_VERIFY: Final = """\
Verifies agent versions and config layers in this node's store: each version against its file manifest (content, size
and permissions of files, links and directories), each config layer against the digest in its name. Owners, extended
attributes and files that pods wrote are not compared. Reads only.

exit code:
  0  everything is intact
  1  something is corrupt, missing, has no usable manifest, or is unreadable
  2  invalid command line, or no data directory
"""


_PRELOAD: Final = """\
Adds an agent package on this machine to this node's store, for nodes without access to tenant or registry, or before
their first pods. The package is a zip, or an image in an OCI image layout, as written by
skopeo copy docker://… oci:directory. An image is identified by its digest. A DynaKube with this digest, or with a tag
that the operator resolves to it, needs no registry. A zip is for the DynaKube of --dynakube, and for DynaKubes with
the same package source. Run it before the driver is installed or while it runs.
The command checks and unpacks the package like a download. Then the provisioner adds the version to the store. The
store keeps the version for --keep if no DynaKube requests it. After that garbage collection treats it like any other.

exit code:
  0  the version is in the store, or waits for the provisioner
  1  the package was not added, for the reason shown; nothing of it is left on the disk
  2  invalid command line
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `oneagent-csi`."""
    parser = flags.create_parser("oneagent-csi", "Inspects the agents on this node, and preloads packages.")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    command = _add_command(commands, "status", "versions, volumes, failures, DynaKubes and disk of this node", _STATUS)
    _add_mount_table(command)
    command.set_defaults(run=_status)
    command = _add_command(commands, "why", "why a pod on this node has its agent, or has none", _WHY)
    _add_mount_table(command)
    flags.adder(command)("proc", Path("/proc"), "proc file system of the node", parse=flags.absolute_path)
    command.add_argument(
        "--uid", type=flags.checked(_uid), default="", metavar="UID",
        help="UID of the pod, to find its processes even without a volume",
    )  # fmt: skip
    command.add_argument("pod", type=flags.checked(_pod), metavar="NAMESPACE/POD", help="pod to diagnose")
    command.set_defaults(run=_why)
    command = _add_command(commands, "verify", "integrity of agent versions and config layers in the store", _VERIFY)
    flags.adder(command)("rate", "100Mi", "read limit in bytes per second; 0: no limit", parse=flags.size)
    command.add_argument(
        "version",
        nargs="*",
        metavar="VERSION",
        type=flags.checked(_version),
        help="versions to verify (default all versions and config layers)",
    )
    command.set_defaults(run=_verify)
    command = _add_command(commands, "preload", "put a package into this node's store", _PRELOAD)
    add = flags.adder(command)
    add(
        "version",
        "",
        "version of a zip; the package's own if empty",
        parse=flags.checked(_version_or_none),
        metavar="VERSION",
    )
    add(
        "dynakube",
        "",
        "DynaKube whose package source the zip is from",
        parse=flags.checked(_dynakube),
        metavar="NAME",
    )
    add("keep", 30 * 86400.0, "retention while no DynaKube requests the version", parse=flags.duration)
    add("wait", 60.0, "maximum wait for the provisioner to add the version to the store", parse=flags.duration)
    command.add_argument(
        "package",
        metavar="PACKAGE",
        type=flags.checked(_package),
        help="zip, directory with an OCI image layout, or oci-layout:/directory:name for one image of a layout",
    )
    command.set_defaults(run=_preload)
    command = commands.add_parser("help", help="help of a command", description="Shows the help of a command.")
    command.add_argument(
        "topic", nargs="?", default="", metavar="COMMAND", help="command to describe (default: all commands)"
    )
    parser.set_defaults(run=partial(_help, parser))
    command.set_defaults(run=partial(_help, parser))
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, description: str
) -> argparse.ArgumentParser:
    """Add a subcommand with the common flags."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=flags.HelpFormatter,
        allow_abbrev=False,
    )
    flags.adder(parser)("data-dir", Path("/data"), "directory of agents, views and metadata", parse=flags.absolute_path)
    parser.add_argument(
        "-o",
        "--output",
        choices=report_output.FORMATS,
        default="",
        metavar="FORMAT",
        help="output format: json or yaml (default text)",
    )
    return parser


def _add_mount_table(command: argparse.ArgumentParser) -> None:
    flags.adder(command)(
        "mount-table", mount_table.SELF, "mount table with the driver's mounts", parse=flags.absolute_path
    )


def _version(text: str) -> Version:
    return Version(data_dir.component(text, "agent version"))


def _version_or_none(text: str) -> Version:
    if text and not identifiers.is_version(text):
        raise ValueError(f"{text!r} is no version: it must be {identifiers.VERSION_FORM}")
    return Version(text)


def _dynakube(text: str) -> str:
    if text and not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise ValueError(f"{text!r} is not the name of a DynaKube, for example my-dynakube")
    return text


def _package(text: str) -> Path | oci_reference.LayoutReference:
    if text.startswith(oci_reference.LAYOUT_PREFIX):
        return oci_reference.parse_layout(text)
    path = Path(text)
    return oci_reference.LayoutReference(path.absolute()) if path.is_dir() else path


def _pod(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise ValueError(f"{text!r} is not namespace/pod, for example shop/cart-0")
    return namespace, name


def _uid(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z-]{0,64}", text):
        raise ValueError(f"{text!r} is not the UID of a pod")
    return text


def _data(args: argparse.Namespace, *, must_exist: bool = True) -> DataDir:
    try:
        data = DataDir(args.data_dir)
    except UnsafeNameError as error:
        raise CommandError("InvalidCommandLine", f"--data-dir: {error}", 2) from error
    if must_exist:
        try:
            os.close(os.open(data.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            message = f"--data-dir={data.root} can't be read: {error.strerror}"
            raise CommandError("NotReadable", f"{message}{explain_access(error, data)}", 2) from error
    return data


def _status(args: argparse.Namespace) -> int:
    data = _data(args)
    status = problems.add_problems(collect.collect_status(data, args.mount_table, now=SteadyClock(data.clock).now()))
    if args.output:
        report_output.write(node_report.status_to_json(status), args.output)
    else:
        _print(tables.lines(status, terminal.of_stream()))
    return 1 if status.problems else 0


def _why(args: argparse.Namespace) -> int:
    data = _data(args)
    now = SteadyClock(data.clock).now()
    evidence = why_collect.collect_evidence(
        data, args.mount_table, args.proc, args.pod[0], args.pod[1], args.uid, now=now
    )
    diagnosis = diagnose.diagnose(evidence)
    if args.output:
        report_output.write(node_report.pod_to_json(node_report.PodReport(evidence, diagnosis)), args.output)
    else:
        _print(why_text.lines(evidence, diagnosis, terminal.of_stream()))
    if diagnosis.reason in why.AS_INTENDED:
        return 0
    return CANNOT_TELL if diagnosis.reason in why.UNKNOWN else 1


def _verify(args: argparse.Namespace) -> int:
    from oneagent.csi_driver.cli import verify  # the provisioner's parts, which take twice as long to load

    return verify.run(_data(args), args.version, bytes_per_second=args.rate or None, output_format=args.output)


def _preload(args: argparse.Namespace) -> int:
    from oneagent.csi_driver.cli import preload  # the unpacker, which no other command needs

    return preload.run(
        _data(args, must_exist=False),
        args.package,
        args.version,
        args.dynakube,
        keep_seconds=args.keep,
        wait_seconds=args.wait,
        output_format=args.output,
    )


def _help(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    topic = getattr(args, "topic", "")
    if topic and topic not in commands.choices:
        parser.error(f"there is no command {topic!r}, of {', '.join(commands.choices)}")
    (commands.choices[topic] if topic else parser).print_help()
    return 0


def _print(lines: Iterator[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def main() -> int:
    """Run `oneagent-csi`."""
    args = make_parser().parse_args()
    try:
        exit_code: int = args.run(args)
        return exit_code
    except CommandError as error:
        message = printable.mask(str(error))
        if output_format := getattr(args, "output", ""):
            sys.stdout.write(report_output.render_error(error.reason, message, output_format))
        else:
            print(f"oneagent-csi: {message}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
