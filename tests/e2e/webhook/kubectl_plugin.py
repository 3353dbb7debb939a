"""`kubectl oneagent`, called as a kubectl plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import BIN


class Plugin:
    """`kubectl oneagent`, found by kubectl in the PATH as it is for people."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        program = folder / "kubectl-oneagent"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m oneagent.operator.cli.main "$@"\n')
        program.chmod(0o755)
        path = f"{folder}:{BIN.resolve()}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "KUBECONFIG": str(cluster.control_plane.admin)}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "kubectl"), "oneagent", *arguments]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=90, check=False
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "-o", "json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def why(self, pod: str) -> Any:
        return self.json("why", pod)

    def findings(self) -> list[dict[str, Any]]:
        """Those that are more than notes."""
        return [finding for finding in self.json("doctor")["findings"] if finding["severity"] != "note"]
