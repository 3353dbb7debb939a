"""A process of nodes: `python -m benchmarks.fleet.process KUBECONFIG FIRST NUMBER`.

Each thing that a node has for the first time is a line of standard output: monotonic time, node, kind, DynaKube and
value, as JSON. It ends when its standard input does.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.fleet.node import Node

_TURN_SECONDS: Final = 2.0
"""A node that nothing has woken is looked at this often: it polls and installs no sooner than at its turn."""
_STEP_SECONDS: Final = 0.1
_STARTS_PER_SECOND: Final = 100.0
_SWITCH_SECONDS: Final = 0.05
"""How often a thread that waits for the interpreter asks for it. With the default of 5 ms, thousands of threads that a
watch event wakes at once do nothing but ask."""


class Fleet:
    """All nodes of a process. One thread evaluates them one after the other, so that an idle fleet costs little."""

    def __init__(self, kubeconfig: Path, names: list[str]) -> None:
        self._queue = queue.SimpleQueue[tuple[int, bool]]()
        """Nodes, and whether something has woken each."""
        self._woken = set[int]()
        self._recorded = set[tuple[int, str, str, str]]()
        self._nodes = [self._create(number, name, kubeconfig) for number, name in enumerate(names)]
        self._names = names

    def run(self, stop: threading.Event) -> None:
        threading.Thread(target=self._evaluate, daemon=True).start()
        for node in self._nodes:
            node.start(stop)
            time.sleep(1 / _STARTS_PER_SECOND)
        turn, steps = 0, round(_TURN_SECONDS / _STEP_SECONDS)
        while not stop.wait(_STEP_SECONDS):
            if self._queue.empty():
                for number in range(turn, len(self._nodes), steps):
                    self._queue.put((number, False))
            turn = (turn + 1) % steps

    def _create(self, number: int, name: str, kubeconfig: Path) -> Node:
        return Node(name, kubeconfig, lambda: self._wake(number), lambda *what: self._record(number, *what))

    def _wake(self, number: int) -> None:
        if number not in self._woken:
            self._woken.add(number)
            self._queue.put((number, True))

    def _evaluate(self) -> None:
        while True:
            number, is_woken = self._queue.get()
            self._woken.discard(number)
            try:
                if is_woken:
                    self._nodes[number].evaluate()
                else:
                    self._nodes[number].look()
            except Exception:
                logging.exception("node %d", number)

    def _record(self, number: int, kind: str, dynakube: str, value: str) -> None:
        what = (number, kind, dynakube, value)
        if what not in self._recorded:
            self._recorded.add(what)
            sys.stdout.write(json.dumps([time.monotonic(), self._names[number], kind, dynakube, value]) + "\n")
            sys.stdout.flush()


def main() -> int:
    logging.disable(logging.WARNING)
    threading.stack_size(256 << 10)
    sys.setswitchinterval(_SWITCH_SECONDS)
    kubeconfig, first, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    names = [f"node-{one:04}" for one in range(first, first + number)]
    stop = threading.Event()
    fleet = threading.Thread(target=Fleet(kubeconfig, names).run, args=(stop,), daemon=True)
    fleet.start()
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
