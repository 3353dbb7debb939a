"""Make the virtual environment: `python3 tests/tools/set_up.py VENV LOCK`, which is what `make setup` runs.

pip takes most of a minute and says nothing meanwhile. So a terminal sees a line that moves, with the packages that
came so far and the time; elsewhere one line says at the beginning how long it takes. The output of a command that
fails is printed as it is.

The environment does not exist yet, so nothing is imported but the standard library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

USUAL_SECONDS: Final = 60
"""On an idle machine with two cores and no cached packages, of which pip takes 45 s."""
_REDRAW_SECONDS: Final = 0.2
_BAR_WIDTH: Final = 20
_PIP: Final = ("install", "--disable-pip-version-check", "--no-input", "--progress-bar=off")


class Progress:
    """One line on a terminal's stderr, redrawn while a command runs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self.is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def draw(self, what: str, share: float) -> None:
        if self.is_terminal:
            filled = round(_BAR_WIDTH * min(share, 1.0))
            bar = "━" * filled + " " * (_BAR_WIDTH - filled)
            line = f"{bar} {self.seconds:3.0f} s  {what}"
            # A longer line would wrap, and could not be redrawn.
            sys.stderr.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self.is_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class PipOutput:
    """Counts the packages in pip's output."""

    def __init__(self, packages: int) -> None:
        self._packages = packages
        self._collected = 0
        self._is_installing = False

    def read(self, line: str) -> None:
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            self._collected += 1
        elif line.startswith("Installing collected packages: "):
            self._is_installing = True

    @property
    def state(self) -> tuple[str, float]:
        """The present work of pip, and the share that is done: it installs for about half of its time."""
        if self._is_installing:
            return f"installing {self._packages} packages", 0.6
        share = self._collected / self._packages if self._packages else 0.0
        return f"collecting packages: {min(self._collected, self._packages)} of {self._packages}", 0.1 + 0.5 * share


def count_packages(lock: Path) -> int:
    """Return how many packages a lock file names."""
    return sum("==" in line and not line.startswith((" ", "#")) for line in lock.read_text().splitlines())


def run(
    command: Sequence[str | Path],
    progress: Progress,
    state: Callable[[], tuple[str, float]],
    read: Callable[[str], None],
) -> None:
    """Run a command, with its output for `read`; `SystemExit` with the output if it fails."""
    output = list[str]()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        lines = process.stdout

        def collect() -> None:
            for line in lines:
                output.append(line)
                read(line)

        reader = threading.Thread(target=collect, daemon=True)
        reader.start()
        while reader.is_alive():
            progress.draw(*state())
            reader.join(_REDRAW_SECONDS)
    progress.clear()
    if process.returncode:
        sys.stderr.write("".join(output))
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {process.returncode}")


def set_up(venv: Path, lock: Path) -> None:
    packages = count_packages(lock)
    print(f"making {venv} with the {packages} packages of {lock}: about {USUAL_SECONDS} s, once", flush=True)
    progress, pip = Progress(), PipOutput(packages)

    def ignore(_line: str) -> None:
        """Only pip's output has a count."""

    run([sys.executable, "-m", "venv", venv], progress, lambda: ("making the environment", 0.05), ignore)
    install: list[str | Path] = [venv / "bin" / "pip", *_PIP]
    run([*install, "--require-hashes", "-r", lock], progress, lambda: pip.state, pip.read)
    own = ["--no-build-isolation", "--no-deps", "-e", "."]
    run([*install, *own], progress, lambda: ("installing oneagent-csi", 0.95), ignore)
    if progress.is_terminal:
        print(f"{venv} is ready after {progress.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    set_up(Path(sys.argv[1]), Path(sys.argv[2]))
