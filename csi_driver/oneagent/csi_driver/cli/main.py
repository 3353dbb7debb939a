"""The command `oneagent-csi`: what a person asks of a node, and `preload`, which brings something to it.

All else only reads, and all of it may be run at any time.

Each question is a subcommand: a function that takes the parsed flags and returns the exit code.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

from oneagent.common import flags
from oneagent.common.identifiers import Version
from oneagent.common.oci import reference as oci_reference
from oneagent.common.oci.reference import LayoutReference
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.cli import status, why
from oneagent.csi_driver.cli.status import collect, problems
from oneagent.csi_driver.cli.why import collect as why_collect
from oneagent.csi_driver.cli.why import diagnose
from oneagent.csi_driver.cli.why import text as why_text
from oneagent.csi_driver.data_dir import DataDir, UnsafeNameError
from oneagent.csi_driver.linux import mount_table

_STATUS: Final = """\
Shows the agent versions, volumes, failures, DynaKubes and disk of this node. Run it where the driver's mounts are
seen: in the server's container. Reads only, works while the driver runs, and says what it can when the
metadata database is missing or can't be read.

exit code:
  0  all is well, or on its way
  1  something needs a person; it is listed under "needs attention" ("problems" in JSON):
     the data folder or the database can't be read, server or provisioner is not running, a version can't be
     installed or is damaged, a DynaKube gets no version, a pod has waited through a failed mount attempt, a pod
     runs with an empty view or lost its view, or little disk is left
  2  the command line can't be used
"""

_WHY: Final = """\
Says why a pod on this node has its agent, or has none: one verdict with what to do, and what it rests on. It joins
the pod's volume in the metadata database, its view in the mount table, and the memory maps of its processes. What the
webhook decided stands in the pod's annotations, which are not looked at here: kubectl oneagent why joins these too.

Reads only. In the server's container the node's processes are at --proc by its variable; elsewhere it has to run
with the node's processes in --proc and its mounts in --mount-table, as root.

exit code:
  0  the agent is loaded in all processes of the pod that have its view, or the pod is a host agent
  1  it is not, or that can't be told
  2  the command line can't be used
"""

_VERIFY: Final = """\
Reads the agent versions and config layers of this node's store again, and compares them with what was put there:
each version with its manifest (every file's content, size and permissions, links and folders), each config layer with
the digest that is its name. Owners, extended attributes and what pods wrote are not compared. Reads only.

exit code:
  0  all of it is whole
  1  something is damaged or missing, has no manifest to compare it with, or can't be read
  2  the command line can't be used
"""


_PRELOAD: Final = """\
Puts an agent package that is on this machine into this node's store: for nodes without a way to the tenant or the
registry, or before their pods come. It is a zip, or an image in a folder, as skopeo copy docker://… oci:folder and
others write it (OCI image layout). An image's version is its digest, so a DynaKube that names it by this digest, or
by a tag that the operator finds it at, needs no registry. It may be run before the driver is installed and while it
runs. The package is checked and unpacked as a downloaded one; the provisioner then puts the version into the store,
at once or when it is started.
The version stays for the time of --keep if no DynaKube wants it, and after that like any other.

exit code:
  0  it is in the store, or waits for the provisioner
  1  it is not, for the reason that is shown; nothing of it is left on the disk
  2  the command line can't be used
"""


def make_parser() -> argparse.ArgumentParser:
    """The command line of `oneagent-csi`."""
    parser = flags.create_parser("oneagent-csi", "Answers questions about the agents on this node.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    about = _command(commands, "status", "versions, volumes, failures, DynaKubes and disk of this node", _STATUS)
    _add_mount_table(about)
    about.set_defaults(answer=_status)
    about = _command(commands, "why", "why a pod on this node has its agent, or has none", _WHY)
    _add_mount_table(about)
    flags.adder(about)("proc", Path("/proc"), "the processes to look at", parse=flags.absolute_path)
    about.add_argument("pod", type=flags.checked(_pod), metavar="namespace/pod", help="the pod")
    about.set_defaults(answer=_why)
    about = _command(commands, "verify", "whether versions and config layers are what was put there", _VERIFY)
    flags.adder(about)("rate", "100Mi", "most to read in a second; 0 for no limit", parse=flags.size)
    about.add_argument(
        "version", nargs="*", type=flags.checked(_version), help="what to check (default: all, and config layers)"
    )
    about.set_defaults(answer=_verify)
    about = _command(commands, "preload", "put a package into this node's store", _PRELOAD)
    add = flags.adder(about)
    add("version", "", "the version that it is (default: what the package says)", parse=flags.checked(_version_or_none))
    add("keep", 30 * 86400.0, "how long it stays though no DynaKube wants it", parse=flags.duration)
    add("wait", 60.0, "how long to wait until the provisioner has taken it", parse=flags.duration)
    about.add_argument(
        "package",
        type=flags.checked(_package),
        help="a zip, a folder with an OCI image layout, or oci-layout:/folder:name for one of its images",
    )
    about.set_defaults(answer=_preload)
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
    flags.adder(parser)("data-dir", Path("/data"), "folder for agents, views and metadata", parse=flags.absolute_path)
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="for people or for programs (default table)"
    )
    return parser


def _add_mount_table(to: argparse.ArgumentParser) -> None:
    flags.adder(to)("mount-table", mount_table.SELF, "the mount table to look at", parse=flags.absolute_path)


def _version(text: str) -> Version:
    return Version(data_dir.component(text, "agent version"))


def _version_or_none(text: str) -> Version:
    return _version(text) if text else Version("")


def _package(text: str) -> Path | LayoutReference:
    if text.startswith(oci_reference.LAYOUT_PREFIX):
        return oci_reference.parse_layout(text)
    path = Path(text)
    return LayoutReference(path.absolute()) if path.is_dir() else path


def _pod(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise ValueError(f"{text!r} is not namespace/pod, for example shop/cart-0")
    return namespace, name


def _folder(given: argparse.Namespace) -> DataDir:
    try:
        return DataDir(given.data_dir)
    except UnsafeNameError as error:
        raise SystemExit(f"--data-dir: {error}") from error


def _status(given: argparse.Namespace) -> int:
    found = problems.judge(collect.look(_folder(given), given.mount_table, now=time.time()))
    if given.output == "json":
        sys.stdout.write(json.dumps(status.as_json(found), indent=2) + "\n")
    else:
        from oneagent.csi_driver.cli.status import tables as status_tables  # rich: 6 MiB that only people need

        status_tables.show(found)
    return 1 if found.problems else 0


def _why(given: argparse.Namespace) -> int:
    namespace, pod = given.pod
    found = why_collect.look(_folder(given), given.mount_table, given.proc, namespace, pod, now=time.time())
    verdict = diagnose.judge(found)
    if given.output == "json":
        sys.stdout.write(json.dumps(why.as_json(found, verdict), indent=2) + "\n")
    else:
        sys.stdout.write(why_text.render(found, verdict))
    return 0 if verdict.reason in why.GOOD else 1


def _verify(given: argparse.Namespace) -> int:
    from oneagent.csi_driver.store import integrity  # the provisioner's parts, which take twice as long to load

    folder = _folder(given)
    found = []
    try:
        for checked in integrity.check(folder, given.version, bytes_per_second=given.rate or None):
            found.append(checked)
            if given.output == "table":
                sys.stdout.writelines(f"{line}\n" for line in integrity.lines(folder, checked))
                sys.stdout.flush()
    except OSError as error:
        raise SystemExit(f"the agent store can't be read: {error.strerror} ({error.filename})") from error
    bad = sum(checked.state != integrity.State.WHOLE for checked in found)
    if given.output == "json":
        sys.stdout.write(json.dumps(integrity.as_json(folder, found), indent=2) + "\n")
    else:
        sys.stdout.write(f"{len(found)} checked, {bad or 'none'} with something to do.\n")
    return 1 if bad else 0


def _preload(given: argparse.Namespace) -> int:
    from oneagent.csi_driver.cli import preload  # the unpacker, which no other command needs

    return preload.run(
        _folder(given),
        given.package,
        given.version,
        keep_seconds=given.keep,
        wait_seconds=given.wait,
        json_output=given.output == "json",
    )


def main() -> int:
    """The command `oneagent-csi`."""
    given = make_parser().parse_args()
    answer: int = given.answer(given)
    return answer


if __name__ == "__main__":
    raise SystemExit(main())
