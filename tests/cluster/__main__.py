"""Runs a command in a sandbox in which a cluster can be started, with everything built that this takes.

    python -m tests.cluster [--required] COMMAND…
    python -m tests.cluster [--required] --workers=2 .venv/bin/pytest tests/e2e
    python -m tests.cluster --packages

With `--workers` pytest itself runs outside, and each of its workers in a sandbox, with a cluster of its own: most of
a test is waiting for a cluster.

What the machine lacks for that is said in one line and is no error, unless the cluster is `--required`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.cluster import cluster, commands, control_plane, images, sandbox, telemetry_images

_BUILD: Final = Path("tests/tools/build.sh")
_HELM: Final = Path("tests/helm")
_PROGRAMS: Final = {**sandbox.PROGRAMS, **cluster.PROGRAMS, **images.PROGRAMS}
# A cluster starts without these; tests that want them, some of them in the node ring, are skipped then.
_OTHERS: Final = ("docker-registry", "musl", "nginx-light", "prometheus")


def prepare() -> None:
    """Build what a cluster is made of; `Unavailable` if the machine lacks something for it."""
    commands.need(_PROGRAMS)
    if reason := sandbox.why_not():
        raise commands.CommandUnavailableError(reason)
    for folder in (control_plane.BIN.parent, _HELM):
        subprocess.run(["sh", _BUILD, folder], check=True)
        not_built = folder / "bin" / ".why-not"
        if not_built.exists():
            raise commands.CommandUnavailableError(not_built.read_text().strip())
    images.build(*telemetry_images.wanted())


def distributed(command: list[str], workers: int) -> list[str]:
    """The pytest command whose workers, so many, are in sandboxes; tests that share fixtures stay together."""
    python = shlex.join([sys.executable, "-m", "tests.cluster.sandbox", sys.executable])
    return [*command, "--dist=loadscope", "--no-loadscope-reorder", f"--tx={workers}*popen//python={python}"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="Runs a command beside a cluster.")
    parser.add_argument("--required", action="store_true", help="fail where a cluster cannot be had")
    parser.add_argument("--packages", action="store_true", help="only say which of Debian's packages it takes")
    parser.add_argument("--workers", type=int, default=0, help="of pytest, each in a sandbox; 0 for one sandbox in all")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.packages:
        print(*sorted({*_PROGRAMS.values(), *_OTHERS}))
        return 0
    try:
        prepare()
    except commands.CommandUnavailableError as error:
        print(f"There is no cluster here: {error}", file=sys.stderr)
        return 1 if given.required else 0
    except (commands.CommandFailedError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    if given.workers:
        return subprocess.run(distributed(given.command, given.workers), check=False).returncode
    return sandbox.run(given.command)


if __name__ == "__main__":
    sys.exit(main())
