"""Programs of this machine that make images: found, or named with the package that has them, and run.

Whoever runs one keeps what it says in a log, and gets the end of it in the error. A program inherits what its
caller has marked as inheritable, so that a lock is held as long as somebody works below it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

UMASK: Final = 0o022
"""What is in an image can be read by its user, whatever its maker's own umask."""

_LAST_LINES: Final = 15


class CommandUnavailableError(Exception):
    """This machine can't make the images; the message says what it lacks."""


class CommandFailedError(Exception):
    """A program that makes an image did not work; the message has the end of what it said."""


def need(packages: Mapping[str, str]) -> None:
    """`Unavailable` with the packages to install, unless each program, a key, is there."""
    missing = {program: package for program, package in packages.items() if shutil.which(program) is None}
    if missing:
        raise CommandUnavailableError(
            f"{', '.join(missing)} missing: apt-get install {' '.join(sorted(set(missing.values())))}"
        )


def run(name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a program to its end, its output appended to the log; `Failed` with its name if it ends with an error."""
    with log.open("ab") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
            env=environment,
            close_fds=False,
            umask=UMASK,
        )
    if done.returncode:
        raise failure(name, done.returncode, log)


def failure(name: str, code: int, log: Path) -> CommandFailedError:
    """The error of a program that ended so."""
    last = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    return CommandFailedError(f"{name} ended with {code}. The end of {log}:\n{last}")
