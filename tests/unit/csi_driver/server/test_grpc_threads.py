"""The thread that polls for calls reads the socket by itself: gRPC's event engine is off before gRPC is loaded."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

from oneagent.csi_driver.server import GRPC_EXPERIMENTS

PROGRAM = """
import os, sys
import oneagent.csi_driver.server
assert "grpc" not in sys.modules
print(os.environ["GRPC_EXPERIMENTS"])
"""


def test_the_event_engine_is_off_before_grpc_reads_its_environment() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, env={})
    assert run.stdout.strip() == "-event_engine_listener,-event_engine_client"


def test_an_administrator_s_own_choice_stays() -> None:
    environment = {"GRPC_EXPERIMENTS": "event_engine_listener"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == "event_engine_listener"


def test_the_installed_grpc_still_knows_these_experiments() -> None:
    """It ignores names that it does not know, without a word."""
    library = Path(importlib.import_module("grpc._cython.cygrpc").__file__ or "").read_bytes()
    assert all(name.encode() + b"\0" in library for name in GRPC_EXPERIMENTS)
