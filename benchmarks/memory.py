"""What the driver holds in memory on every node, idle.

All four processes of the DaemonSet run at once on one node, with their HTTP endpoints open as the chart opens
them, and have done some work; what they hold is read a few seconds later. RSS counts a shared page in every
process, so the node's sum is of PSS, which divides it among those that share it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks import floors, ports, results
from benchmarks.results import Result
from tests.fakes import kube_api, node

_LIMITS: Final = {"server": 60.0, "provisioner": 80.0, "registrar": 32.0, "livenessprobe": 32.0}
_NODE_LIMIT: Final = 150.0
_IDLE_SECONDS: Final = 5.0
_PUBLISHES: Final = 200
_PROVISIONER: Final = "oneagent.csi_driver.provisioner"


def run() -> list[Result]:
    return []
