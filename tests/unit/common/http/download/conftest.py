from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import tenant as double
from tests.unit.common.http.download.bench import SIZE, VERSION, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    content = random.Random(1).randbytes(SIZE)
    package = tmp_path / "package"
    package.write_bytes(content)
    folder = tmp_path / "tmp"
    folder.mkdir()
    with double.Tenant() as server:
        server.release(VERSION, package)
        yield Bench(server, folder, content)
