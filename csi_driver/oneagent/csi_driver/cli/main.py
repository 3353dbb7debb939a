"""Command line of `oneagent-csi`: `status`, `why` and `verify` read a node, `preload` puts a package into its store.

Each subcommand is a function that takes the parsed flags and returns the exit code.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Final

from oneagent.common import flags, identifiers, node_report
from oneagent.common.identifiers import Version
from oneagent.common.oci import reference as oci_reference
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.cli import why
from oneagent.csi_driver.cli.status import collect, problems
from oneagent.csi_driver.cli.why import collect as why_collect
from oneagent.csi_driver.cli.why import diagnose
from oneagent.csi_driver.cli.why import text as why_text
from oneagent.csi_driver.data_dir import DataDir, UnsafeNameError
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.linux.clock import SteadyClock

_STATUS: Final = """\
Shows the agent versions, volumes, failures, DynaKubes and disk of this node. Reads only. Run it in the server's
container, where the driver's mounts are visible. Without a readable metadata database it shows everything else.

exit code:
  0  no problems, or only work in progress
  1  problems that an administrator has to solve, listed under "needs attention" ("problems" in JSON): the data
     directory or the database is unreadable, server or provisioner is not running, a version can't be installed or
     is corrupt, a DynaKube gets no version, a pod waits after a failed mount attempt, a pod runs with an empty view
     or lost its view, or little disk space is left
  2  invalid command line
"""

_WHY: Final = """\
Shows why a pod on this node has its agent, or has none: one diagnosis, its remedy, and the evidence. It joins the
pod's volume in the metadata database, its view in the mount table, and the memory maps of its processes. The
webhook's decision is in the pod's annotations, which only kubectl oneagent why reads.

Reads only. In the server's container --proc is set by its variable. Elsewhere run it as root, with --proc and
--mount-table of the node.

exit code:
  0  the agent is loaded in all processes of the pod that have its view, or the pod is a host agent
  1  it is not loaded, or that is unknown
  2  invalid command line
"""

_VERIFY: Final = """\
Verifies agent versions and config layers in this node's store: each version against its file manifest (content, size
and permissions of files, links and directories), each config layer against the digest in its name. Owners, extended
attributes and files that pods wrote are not compared. Reads only.

exit code:
  0  everything is intact
  1  something is corrupt, missing, has no usable manifest, or is unreadable
  2  invalid command line
"""


_PRELOAD: Final = """\
Puts an agent package on this machine into this node's store: for nodes that reach neither tenant nor registry, or
ahead of their first pods. The package is a zip, or an image in an OCI image layout, as written by
skopeo copy docker://… oci:directory. An image is known by its digest, so a DynaKube that names this digest, or a tag
that the operator resolves to it, needs no registry. A zip is for one DynaKube, named by --dynakube, and DynaKubes with
the same package source. It works before the driver is installed and while it runs.
The package is checked and unpacked like a downloaded one; then the provisioner puts the version into the store.
The version stays for --keep if no DynaKube requests it, and after that like any other.

exit code:
  0  the version is in the store, or waits for the provisioner
  1  it is not, for the reason shown; nothing of it is left on the disk
  2  invalid command line
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `oneagent-csi`."""
    parser = flags.create_parser("oneagent-csi", "Inspects the agents on this node, and preloads packages.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    command = _add_command(commands, "status", "versions, volumes, failures, DynaKubes and disk of this node", _STATUS)
    _add_mount_table(command)
    command.set_defaults(run=_status)
    command = _add_command(commands, "why", "why a pod on this node has its agent, or has none", _WHY)
    _add_mount_table(command)
    flags.adder(command)("proc", Path("/proc"), "proc file system with the node's processes", parse=flags.absolute_path)
    command.add_argument("pod", type=flags.checked(_pod), metavar="namespace/pod", help="pod to diagnose")
    command.set_defaults(run=_why)
    command = _add_command(commands, "verify", "integrity of agent versions and config layers in the store", _VERIFY)
    flags.adder(command)("rate", "100Mi", "read limit in bytes per second; 0 for no limit", parse=flags.size)
    command.add_argument(
        "version", nargs="*", type=flags.checked(_version), help="versions to verify (default all, and config layers)"
    )
    command.set_defaults(run=_verify)
    command = _add_command(commands, "preload", "put a package into this node's store", _PRELOAD)
    add = flags.adder(command)
    add("version", "", "version of a zip (default: as the package names it)", parse=flags.checked(_version_or_none))
    add(
        "dynakube",
        "",
        "DynaKube whose package source a zip is from",
        parse=flags.checked(_dynakube),
    )
    add("keep", 30 * 86400.0, "retention while no DynaKube requests the version", parse=flags.duration)
    add("wait", 60.0, "timeout for the provisioner to put it into the store", parse=flags.duration)
    command.add_argument(
        "package",
        type=flags.checked(_package),
        help="zip, directory with an OCI image layout, or oci-layout:/directory:name for one of its images",
    )
    command.set_defaults(run=_preload)
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
    flags.adder(parser)("data-dir", Path("/data"), "directory of agents, views and metadata", parse=flags.absolute_path)
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="output format (default table)"
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


def _data(args: argparse.Namespace) -> DataDir:
    try:
        return DataDir(args.data_dir)
    except UnsafeNameError as error:
        raise SystemExit(f"--data-dir: {error}") from error


def _status(args: argparse.Namespace) -> int:
    data = _data(args)
    status = problems.add_problems(collect.collect_status(data, args.mount_table, now=SteadyClock(data.clock).now()))
    if args.output == "json":
        sys.stdout.write(json.dumps(node_report.status_to_json(status), indent=2) + "\n")
    else:
        from oneagent.csi_driver.cli.status import tables  # rich: 6 MiB that JSON does without

        tables.print_status(status)
    return 1 if status.problems else 0


def _why(args: argparse.Namespace) -> int:
    data = _data(args)
    now = SteadyClock(data.clock).now()
    evidence = why_collect.collect_evidence(data, args.mount_table, args.proc, *args.pod, now=now)
    diagnosis = diagnose.diagnose(evidence)
    if args.output == "json":
        report = node_report.PodReport(evidence, diagnosis)
        sys.stdout.write(json.dumps(node_report.pod_to_json(report), indent=2) + "\n")
    else:
        sys.stdout.write(why_text.render(evidence, diagnosis))
    return 0 if diagnosis.reason in why.AS_INTENDED else 1


def _verify(args: argparse.Namespace) -> int:
    from oneagent.csi_driver.cli import verify  # the provisioner's parts, which take twice as long to load

    json_output = args.output == "json"
    return verify.run(_data(args), args.version, bytes_per_second=args.rate or None, json_output=json_output)


def _preload(args: argparse.Namespace) -> int:
    from oneagent.csi_driver.cli import preload  # the unpacker, which no other command needs

    return preload.run(
        _data(args),
        args.package,
        args.version,
        args.dynakube,
        keep_seconds=args.keep,
        wait_seconds=args.wait,
        json_output=args.output == "json",
    )


def main() -> int:
    """Run `oneagent-csi`."""
    args = make_parser().parse_args()
    exit_code: int = args.run(args)
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())
