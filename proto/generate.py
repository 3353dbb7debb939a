"""Generates the gRPC modules and their typed stubs from the .proto files.

Runs as a build hook (every `pip install` and every wheel) and by hand: `python proto/generate.py`.
The mapping `oneagent/common/proto=proto` gives the generated modules their right import path, so
nothing has to be rewritten afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, without the build backend
    BuildHookInterface = object  # type: ignore[assignment,misc]

ROOT = Path(__file__).resolve().parent.parent


def generate(root: Path) -> None:
    """Write `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` below `common/`; `RuntimeError` with protoc's exit code."""
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    protos = sorted(str(path.relative_to(root)) for path in (root / "proto").rglob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-Ioneagent/common/proto={root / 'proto'}",
            f"-I{well_known}",
            f"--python_out={root / 'common'}",
            f"--pyi_out={root / 'common'}",
            f"--grpc_python_out={root / 'common'}",
            *(f"oneagent/common/{path}" for path in protos),
        ]
    )
    if code:
        raise RuntimeError(f"protoc ended with exit code {code}")


class ProtoBuildHook(BuildHookInterface):  # type: ignore[misc,type-arg]
    """Hatchling calls this before it collects the files of a wheel or an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(ROOT)


if __name__ == "__main__":
    generate(ROOT)
