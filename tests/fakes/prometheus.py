"""A real Prometheus, that of Debian's package, which reads what a test tells it to."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes import ports


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str

    def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """What it answers. Whatever it refuses is an error."""
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)["data"]
            return found

    def values(self, expression: str) -> list[float]:
        return [float(sample["value"][1]) for sample in self.get("/api/v1/query", query=expression)["result"]]

    def firing(self, name: str) -> list[dict[str, Any]]:
        alerts = self.get("/api/v1/alerts")["alerts"]
        return [each for each in alerts if (each["labels"]["alertname"], each["state"]) == (name, "firing")]

    def all_rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("/api/v1/rules")["groups"] for rule in group["rules"]]


@contextlib.contextmanager
def running(folder: Path, targets: Sequence[dict[str, Any]], rules: Path) -> Iterator[Prometheus]:
    """One that reads these targets and evaluates these rules five times a second; skips the test if there is none."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no prometheus: it is in Debian's package prometheus")
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "parts", "static_configs": list(targets)}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{ports.free()}"
    command = [
        *(program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(f"http://{address}")
        finally:
            process.kill()
