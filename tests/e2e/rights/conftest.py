"""These tests judge what all others have had done, so they come last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

_RING: Final = Path(__file__).parents[1]
_PART: Final = pytest.StashKey[bool]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    if items:
        items[0].config.stash[_PART] = True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.is_relative_to(Path(__file__).parent))
    chosen = {item.path for item in items}
    all_files = chosen >= set(_RING.rglob("test_*.py"))
    single = any("::" in argument for argument in config.args)
    config.stash[_PART] = config.stash.get(_PART, False) or single or not all_files


@pytest.fixture
def whole_ring(request: pytest.FixtureRequest) -> None:
    """Only if everything was run, and went well, a call that is missing says something."""
    if request.config.stash[_PART]:
        pytest.skip("only a part of the cluster ring was run")
    if request.session.testsfailed:
        pytest.skip("tests have failed, which may have kept others from being asked for anything")
