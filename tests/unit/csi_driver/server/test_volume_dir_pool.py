"""Directories of volumes are ready before they are needed, and complete."""

from __future__ import annotations

import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oneagent.common.agents.oneagent import ENRICHMENT_DIRECTORY
from oneagent.common.injection.contract import VIEW_FILES_DIRECTORY
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.server.volume_dir_pool import KEPT, VolumeDirPool
from oneagent.csi_driver.server.volume_files import IDENTITY_FILE


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.create()
    return made


def ready(data: DataDir) -> int:
    return sum(1 for _ in Path(data.volume_pool).iterdir())


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.01)


def modes(place: Path) -> dict[str, int]:
    return {str(path.relative_to(place)): stat.S_IMODE(path.stat().st_mode) for path in place.rglob("*")}


@pytest.mark.parametrize("started", [True, False])
def test_a_directory_is_complete_whether_it_comes_from_the_pool_or_not(data: DataDir, started: bool) -> None:
    pool = VolumeDirPool(data)
    if started:
        pool.start()
        eventually(lambda: ready(data) == KEPT)
    place = Path(data.volumes) / "csi-1"
    pool.acquire(str(place))
    assert modes(place) == {
        "work": 0o700,
        "upper": 0o1777,
        "upper/agent": 0o1777,
        f"upper/{VIEW_FILES_DIRECTORY}": 0o1777,
        f"upper/{VIEW_FILES_DIRECTORY}/{ENRICHMENT_DIRECTORY}": 0o755,
        f"upper/{IDENTITY_FILE}": 0o644,
    }
    assert ready(data) == (KEPT - 1 if started else 0)
    assert not (place / f"upper/{IDENTITY_FILE}").read_bytes()


def test_a_pool_that_was_not_started_is_never_filled(data: DataDir) -> None:
    pool = VolumeDirPool(data)
    pool.acquire(f"{data.volumes}/csi-1")
    assert not pool._low.is_set()
    assert ready(data) == 0


def test_a_pool_that_is_half_empty_is_filled_again(data: DataDir) -> None:
    pool = VolumeDirPool(data)
    pool.start()
    eventually(lambda: ready(data) == KEPT)
    for number in range(KEPT // 2):
        pool.acquire(f"{data.volumes}/csi-{number}")
    assert ready(data) == KEPT - KEPT // 2, "it rests until less than half is left"
    pool.acquire(f"{data.volumes}/csi-next")
    eventually(lambda: ready(data) == KEPT)


def test_directories_of_an_earlier_process_are_removed(data: DataDir) -> None:
    incomplete = Path(data.volume_pool) / "1"
    (incomplete / "upper").mkdir(parents=True)
    pool = VolumeDirPool(data)
    pool.start()
    eventually(lambda: ready(data) == KEPT)
    assert not incomplete.exists()


def test_a_place_that_exists_is_an_error(data: DataDir) -> None:
    place = Path(data.volumes) / "csi-1"
    (place / "upper").mkdir(parents=True)
    with pytest.raises(OSError, match="Directory not empty"):
        VolumeDirPool(data).acquire(str(place))


def test_a_data_directory_that_was_emptied_gets_its_directories_again(data: DataDir) -> None:
    pool = VolumeDirPool(data)
    pool.start()
    eventually(lambda: ready(data) == KEPT)
    shutil.rmtree(data.root)
    place = Path(data.volumes) / "csi-1"
    pool.acquire(str(place))
    assert (place / "upper/agent").is_dir()
    eventually(lambda: ready(data) == KEPT)
