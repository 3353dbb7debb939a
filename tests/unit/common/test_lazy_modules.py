"""A postponed module is there, is loaded by the first use of one of its names, and only once."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common import lazy_modules

SOURCE = """
import sys, time
sys.loaded_by_test.append(__name__)
time.sleep(0.05)
from postponed_part import inner
def answer(): return 42
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the modules whose content has been loaded."""
    (tmp_path / "postponed.py").write_text(SOURCE.replace("from postponed_part import inner", "import postponed"))
    (tmp_path / "postponed_part").mkdir()
    (tmp_path / "postponed_part/__init__.py").write_text(SOURCE)
    (tmp_path / "postponed_part/inner.py").write_text("value = 7\n")
    loaded: list[str] = []
    monkeypatch.setattr(sys, "loaded_by_test", loaded, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    lazy_modules.postpone("postponed", "postponed_part", "postponed_missing")
    yield loaded
    for name in [name for name in sys.modules if name.startswith("postponed")]:
        del sys.modules[name]


def test_imports_do_not_load_it_and_a_name_does(loaded: list[str]) -> None:
    module = importlib.import_module("postponed")
    assert importlib.import_module("postponed") is module
    assert lazy_modules.is_postponed("postponed")
    assert not hasattr(module, "__path__")
    assert loaded == []
    assert module.answer() == 42
    assert not lazy_modules.is_postponed("postponed")
    assert not hasattr(module, "question")
    assert loaded == ["postponed"]


def test_a_module_of_a_postponed_package_is_imported_without_it(loaded: list[str]) -> None:
    assert importlib.import_module("postponed_part.inner").value == 7
    assert loaded == []
    assert importlib.import_module("postponed_part").answer() == 42
    assert loaded == ["postponed_part"]


def test_threads_that_use_it_at_once_load_it_once_and_wait_for_it(loaded: list[str]) -> None:
    module, barrier, answers = importlib.import_module("postponed"), threading.Barrier(8), list[int]()

    def use() -> None:
        barrier.wait()
        answers.append(module.answer())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [42] * 8
    assert loaded == ["postponed"]


def test_a_module_that_is_not_there_is_missing_at_once(loaded: list[str]) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("postponed_missing")
