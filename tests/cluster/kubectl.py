"""kubectl, as a user calls it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import BIN

Manifest = Mapping[str, Any]


class KubectlError(Exception):
    """It ended with an error; the text is what it printed."""


class Kubectl:
    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = 60) -> str:
        """What it prints; `KubectlError` if it fails."""
        done = subprocess.run(
            [BIN / "kubectl", f"--kubeconfig={self._kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))

    def apply(self, *manifests: Manifest) -> None:
        self("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def delete(self, *manifests: Manifest, wait: bool = True) -> None:
        """In one call; what is not there is no error."""
        flags = ("--ignore-not-found", f"--wait={str(wait).lower()}")
        self("delete", *flags, "-f", "-", stdin=yaml.safe_dump_all(manifests), timeout=180)
