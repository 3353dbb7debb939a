"""Decoders of all types are there before threads are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import msgspec

from oneagent.common import typed_json

ROOTS = [Path(root, "oneagent") for root in ("common", "csi_driver", "operator", "webhook", "sidecars")]
# Each child is a process that has not decoded anything yet, in which four threads begin with the same type.
SCRIPT = """
import os, sys, threading
import oneagent.csi_driver.provisioner.main, oneagent.csi_driver.provisioner.unpacker.messages
import oneagent.operator.main, oneagent.operator.package_server, oneagent.webhook.main
from oneagent.common import typed_json

def decode_all(together):
    together.wait()
    for each in typed_json.prepared_types():
        try:
            typed_json.decode(b"{}", each)
        except Exception:
            pass

sys.setswitchinterval(1e-5)
for _ in range(200):
    if (child := os.fork()) == 0:
        together = threading.Barrier(4)
        threads = [threading.Thread(target=decode_all, args=(together,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    if status := os.waitpid(child, 0)[1]:
        sys.exit(f"a process ended with {status}")
print(len(typed_json.prepared_types()))
"""


def test_threads_may_begin_with_the_same_type() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 25


def test_a_type_that_is_not_prepared_is_built_at_its_first_use() -> None:
    class Unprepared(msgspec.Struct):
        name: str

    assert typed_json.decode(b'{"name": "x"}', Unprepared) == Unprepared("x")
    assert Unprepared in typed_json.prepared_types()


def test_no_module_decodes_types_by_itself() -> None:
    paths = (path for root in ROOTS for path in root.rglob("*.py") if path.name != "typed_json.py")
    found = [
        f"{path}:{node.lineno}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "msgspec.json.decode"
    ]
    assert found == []
