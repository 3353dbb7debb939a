"""Compiles what the commands import: `python3 bytecode.py FROM=TO…`, once all of it can be imported.

Byte code makes a start quick, and takes more room than the source. So a module gets it if a module of ours imports
it, or what runs after that; any other is compiled when it is wanted, as a module without byte code is. A module of
ours that can't be imported ends the build, and so does one that needs what was left out of the image.

`FROM=TO` says where a folder's byte code goes, and which path a traceback is to show for it:
`/layers/own/lib=/opt/oneagent/lib` compiles in place; `/usr/lib/python3.11=/usr/lib/python3.11@/layers/base` beside
the copy below `/layers/base`.

It is without docstrings, which are a tenth of a process's memory and which no command shows; `-OO` would also leave out
assertions. Compiled with `-X no_debug_ranges`, it is without the columns of tracebacks, too.

Byte code is never checked against its source again: nothing changes in an image, and tools that rewrite the times of
files would make every start compile everything.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import marshal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LATER: Final = (
    # What a URL, a flag or a first call imports, as was seen in running commands.
    *("_strptime", "encodings.cp437", "encodings.idna", "encodings.latin_1", "logging.config", "multiprocessing"),
    *("alembic.command", "sqlalchemy.dialects.sqlite.pysqlite", "rich._emoji_codes", "rich.progress", "rich.table"),
    *("anyio._backends._asyncio", "h2.connection", "httpcore2"),
    *("grpc.experimental", "grpc._channel", "grpc._interceptor", "grpc._server", "grpc._simple_stubs"),
    # The process that unpacks packages.
    *("runpy", "zstandard"),
)


_HEADER: Final = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")
"""Of a file that is never checked (PEP 552)."""


@dataclass(frozen=True, slots=True)
class Place:
    source: Path
    shown: Path
    """Where the folder is in the image."""
    root: Path
    """The image's root, if the folder was copied; otherwise byte code goes beside the source."""

    @classmethod
    def parse(cls, text: str) -> Place:
        source, _, rest = text.partition("=")
        shown, _, root = rest.partition("@")
        return cls(Path(source), Path(shown), Path(root))

    def compile(self, file: Path) -> None:
        shown = self.shown / file.relative_to(self.source)
        copied = self.root / shown.relative_to("/") if self.root.parts else file
        if not copied.exists():
            raise FileNotFoundError(f"{file} is imported, and root.py leaves it out of the image")
        source = file.read_bytes()
        code = compile(without_docstrings(source), str(shown), "exec", dont_inherit=True, optimize=0)
        target = Path(importlib.util.cache_from_source(str(copied)))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_HEADER + importlib.util.source_hash(source) + marshal.dumps(code))


def without_docstrings(source: bytes) -> ast.Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            # A body is never empty.
            node.body[0:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), node.body[0])]
    return tree


def modules(folder: Path) -> Iterator[str]:
    """The names of all modules below `oneagent` that may be imported; a migration is run, and `__main__` too."""
    for file in sorted(folder.rglob("oneagent/**/*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        # The outermost: a directory below may have the same name.
        parts = parts[parts.index("oneagent") :]
        if "migrations" not in parts and parts[-1] != "__main__":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded() -> Iterator[Path]:
    """The sources of all modules that are imported by now."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py"):
            yield Path(file)


def main() -> None:
    places = [Place.parse(text) for text in sys.argv[1:]]
    for place in places:
        for name in modules(place.source):
            importlib.import_module(name)
    for name in LATER:
        importlib.import_module(name)
    for file in sorted(set(loaded())):
        for place in places:
            if file.is_relative_to(place.source):
                place.compile(file)
                break


if __name__ == "__main__":
    main()
