"""Helm, as a user calls it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deploy import generate

from tests.e2e import installation
from tests.e2e.manifests import NAMESPACE

_REPOSITORY, _, _TAG = installation.IMAGE.partition(":")
IMAGE: Final = {"repository": _REPOSITORY, "tag": _TAG, "pullPolicy": "Never"}
"""The value `image` that names the image of this checkout."""


class Helm:
    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    def __call__(self, *arguments: str, values: Mapping[str, Any] | None = None) -> str:
        """What it prints; an `AssertionError` with its words if it fails."""
        command = [str(generate.HELM), f"--kubeconfig={self._kubeconfig}", f"--namespace={NAMESPACE}", *arguments]
        command += ["--values=-"] if values is not None else []
        done = subprocess.run(
            command, input=json.dumps(values or {}), capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
