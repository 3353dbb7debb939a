"""The command `oneagent-csi`: what a person asks of a node. It only reads, so it may be run at any time.

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
from oneagent.csi_driver import mounttable, status
from oneagent.csi_driver.paths import DataFolder, UnsafeName
from oneagent.csi_driver.status import problems, survey

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


def make_parser() -> argparse.ArgumentParser:
    """The command line of `oneagent-csi`."""
    parser = flags.parser("oneagent-csi", "Answers questions about the agents on this node.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    about = commands.add_parser(
        "status",
        help="versions, volumes, failures, DynaKubes and disk of this node",
        description=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = flags.adder(about)
    add("data-dir", Path("/data"), "folder for agents, views and metadata", parse=flags.absolute_path)
    add("mount-table", mounttable.SELF, "the mount table to look at", parse=flags.absolute_path)
    about.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="for people or for programs (default table)"
    )
    about.set_defaults(answer=_status)
    return parser


def _status(given: argparse.Namespace) -> int:
    try:
        folder = DataFolder(given.data_dir)
    except UnsafeName as error:
        raise SystemExit(f"--data-dir: {error}") from error
    found = problems.judge(survey.look(folder, given.mount_table, now=time.time()))
    if given.output == "json":
        sys.stdout.write(json.dumps(status.as_json(found), indent=2) + "\n")
    else:
        from oneagent.csi_driver.status import tables as status_tables  # rich: 6 MiB that only people need

        status_tables.show(found)
    return 1 if found.problems else 0


def main() -> int:
    """The command `oneagent-csi`."""
    given = make_parser().parse_args()
    answer: int = given.answer(given)
    return answer


if __name__ == "__main__":
    raise SystemExit(main())
