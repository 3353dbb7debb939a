"""Files of variables for the preload library, well formed and spoilt: its parser makes of them what the model makes.

The parser runs in a process of its own, `tests/preload/harness.c`, where each text ends at memory that can't be
touched. It is started once for many cases. The model is written from docs/agents.md, with Python's own means.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import random
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tests import preload
from tests.preload import MAX_ADDED, MAX_VARIABLE_BYTES

ATTRIBUTES: Final = b"OTEL_RESOURCE_ATTRIBUTES"
_NAMES: Final = (
    *(ATTRIBUTES, ATTRIBUTES, b"OTEL_SERVICE_NAME", b"JAVA_TOOL_OPTIONS", b"PYTHONPATH", b"A", b"B_1", b"_"),
    *(b"", b"1A", b"A B", b"A-B", b"OTEL_RESOURCE_ATTRIBUTE", b"OTEL_RESOURCE_ATTRIBUTESX", b"\xffA", b"#A", b" A"),
)
_PIECES: Final = (
    *(
        b"=",
        b",",
        b" ",
        b"a",
        b"b=1",
        b"a=2",
        b"service.name=x",
        b"service.name",
        b",a = 3",
        b",k8s.pod.name = p",
        b",k8s.pod.name=q",
        b",,",
        b"\t",
    ),
    *(b"\xff\xfe", b"\r", b"/a/python", b"-javaagent:/a/agent.jar", b":", b'"', b"\\", b"$(A)", b"xyz" * 50),
)
_VALUE: Final = struct.Struct("<I")


@dataclass(frozen=True)
class Case:
    entries: Sequence[bytes]
    """Of the process, `NAME=value`."""
    container: bytes
    opentelemetry: bytes


class Harness:
    """The parser as a process."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout

    def parse(self, case: Case) -> list[bytes]:
        """Return the entries that the parser makes; `AssertionError` if it ends."""
        blobs = (b"".join(entry + b"\0" for entry in case.entries), case.container, case.opentelemetry)
        with contextlib.suppress(BrokenPipeError):
            self._input.write(b"".join(_VALUE.pack(len(blob)) + blob for blob in blobs))
            self._input.flush()
        header = self._output.read(_VALUE.size)
        assert header, f"the parser ended with {self._process.wait()}: {case}"
        data = self._output.read(_VALUE.unpack(header)[0])
        return data.split(b"\0")[:-1]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self._process.wait()
        self._output.close()


def generate(chance: random.Random) -> Case:
    names = (ATTRIBUTES, b"JAVA_TOOL_OPTIONS", b"PYTHONPATH", b"OTEL_SERVICE_NAME", b"A", b"weird", b"=x")
    entries = [name + b"=" + _value(chance) for name in names if chance.random() < 0.4]
    if chance.random() < 0.01:
        # At the border of what still is extended.
        entry = b"JAVA_TOOL_OPTIONS=".ljust(MAX_VARIABLE_BYTES - 25 + chance.randrange(-2, 3), b"x")
        entries = [entry, *(entry for entry in entries if not entry.startswith(b"JAVA"))]
    chance.shuffle(entries)
    return Case(entries, _text(chance), _text(chance))


def expected(case: Case) -> list[bytes]:
    """Return the entries as documented, by the model."""
    entries = list(case.entries)
    for text in (case.container, case.opentelemetry):
        for line in text.split(b"\0")[0].split(b"\n"):
            _add_line(entries, line.removesuffix(b"\r"), len(case.entries) + MAX_ADDED)
    limit = len(case.entries) + MAX_ADDED
    _extend(entries, b"JAVA_TOOL_OPTIONS", b"-javaagent:/a/agent.jar", b" ", limit)
    _extend(entries, b"PYTHONPATH", b"/a/python", b":", limit, first=True)
    return entries


def judge(chance: random.Random) -> str:
    """Judge a case; the kind of result."""
    case = generate(chance)
    result, model = _harness().parse(case), expected(case)
    assert result == model, f"{case}\nparser: {result}\nmodel:  {model}"
    return "" if len(result) > len(case.entries) + 2 else "few variables"


@functools.cache
def _harness() -> Harness:
    """This process's parser, with undefined behaviour trapped."""
    with tempfile.TemporaryDirectory(prefix="fuzz-preload-") as place:
        flags = ("-fsanitize=undefined", "-fsanitize-trap=undefined")
        harness = Harness(preload.compile_program("harness.c", Path(place) / "harness", *flags))
    atexit.register(harness.close)
    return harness


def _value(chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(30)).replace(b"\0", b"")
    return b"".join(chance.choice(_PIECES) for _ in range(chance.randrange(8)))


def _text(chance: random.Random) -> bytes:
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(200))
    count = chance.choice((0, 1, 2, 3, 5, 10, 20, 800))
    kinds = chance.choice(((b"\n",), (b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\0", b"")))
    ends = [chance.choice(kinds) for _ in range(count)]
    known = chance.choice((0.0, 0.8))
    names = [
        chance.choice(_NAMES) if chance.random() < known else b"N%d" % chance.randrange(5000) for _ in range(count)
    ]
    return b"".join(
        name + chance.choice((b"=", b"=", b"=", b"", b" = ")) + _value(chance) + end
        for name, end in zip(names, ends, strict=True)
    )


def _get(entries: Sequence[bytes], name: bytes) -> bytes | None:
    return next((entry[len(name) + 1 :] for entry in entries if entry.startswith(name + b"=")), None)


def _add_line(entries: list[bytes], line: bytes, limit: int) -> None:
    if not (match := re.match(rb"([A-Za-z_][A-Za-z0-9_]*)=", line)):
        return
    name, value = match[1], line[match.end() :]
    if name == ATTRIBUTES:
        for attribute in value.split(b","):
            key = attribute.lstrip(b" ").partition(b"=")[0].rstrip(b" ")
            if b"=" in attribute and key and key not in _keys(_get(entries, ATTRIBUTES)):
                _extend(entries, ATTRIBUTES, attribute.lstrip(b" "), b",", limit)
    elif name == b"OTEL_SERVICE_NAME" and b"service.name" in _keys(_get(entries, ATTRIBUTES)):
        pass
    elif _get(entries, name) is None and len(entries) < limit:
        entries.append(line)


def _keys(attributes: bytes | None) -> set[bytes]:
    items = (attributes or b"").split(b",")
    return {item.partition(b"=")[0].strip(b" ") for item in items if b"=" in item}


def _extend(
    entries: list[bytes], name: bytes, item: bytes, separator: bytes, limit: int, *, first: bool = False
) -> None:
    value = _get(entries, name)
    if value is not None and item in value.split(separator):
        return
    parts = [part for part in ((item, value) if first else (value, item)) if part]
    entry = name + b"=" + separator.join(parts)
    if len(entry) >= MAX_VARIABLE_BYTES:
        return
    if value is not None:
        entries[next(i for i, old in enumerate(entries) if old.startswith(name + b"="))] = entry
    elif len(entries) < limit:
        entries.append(entry)
