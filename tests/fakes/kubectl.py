"""A `kubectl` that reads a directory, which `FakeCluster` writes. The program in it is `kubectl_program`.

objects                  all objects of the cluster, each with its JSON, marshalled
refused                  kinds that the user may not read, marshalled
unknown                  kinds that the cluster does not have, marshalled
exec/POD                 output of a command in the pod; without this file the pod has no such container
logs/POD/CONTAINER       log of the container; with `.previous` of its previous run
ports/POD                local port to which a port-forward of the pod connects
calls                    all command lines, each a Python list
"""

from __future__ import annotations

import ast
import json
import marshal
import py_compile
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fakes import kubectl_program
from tests.fakes.kubectl_program import HANGING

__all__ = ["HANGING", "FakeCluster"]

Object = Mapping[str, Any]


class FakeCluster:
    """A cluster that a test describes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.program = directory / "kubectl"
        compiled = py_compile.compile(kubectl_program.__file__, cfile=str(directory / "kubectl.pyc"), doraise=True)
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} -SE {compiled} {directory} "$@"\n')
        self.program.chmod(0o755)
        self.set_objects()

    def set_objects(self, *objects: Object) -> None:
        texts = [json.dumps(obj) for obj in objects]
        self._marshal("objects", [(json.loads(text), text) for text in texts])

    def forbid(self, *kinds: str) -> None:
        """Forbid reading these kinds, named in the plural."""
        self._marshal("refused", kinds)

    def forget(self, *kinds: str) -> None:
        """Have no such kinds, named in the plural: their CRD was never there, or was deleted."""
        self._marshal("unknown", kinds)

    def set_exec_output(self, pod: str, output: Any) -> None:
        self._write(f"exec/{pod}", output if output == HANGING else json.dumps(output))

    def set_log(self, pod: str, container: str, text: str) -> None:
        self._write(f"logs/{pod}/{container}", text)

    def set_port(self, pod: str, port: int) -> None:
        self._write(f"ports/{pod}", str(port))

    @property
    def calls(self) -> list[list[str]]:
        return [ast.literal_eval(line) for line in (self._directory / "calls").read_text().splitlines()]

    def _marshal(self, name: str, value: Any) -> None:
        (self._directory / name).write_bytes(marshal.dumps(value))

    def _write(self, name: str, text: str) -> None:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
