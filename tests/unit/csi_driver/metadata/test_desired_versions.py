"""What the server knows of DynaKubes while the provisioner writes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.metadata import desired_versions
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.desired_versions import DesiredState, DesiredStateReader

DEMO = DesiredState(DynaKubeName("demo"), version=Version("1.0"))
OTHER = DesiredState(DynaKubeName("other"), version=Version("2.0"))


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Database]:
    metadata = Database(tmp_path / "metadata.db", tmp_path / "metadata.lock")
    yield metadata
    metadata.close()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "dynakubes.json"


def test_no_dynakube_is_unknown_before_the_provisioner_wrote_them(metadata: Database, copy: Path) -> None:
    reader = DesiredStateReader(metadata, copy)
    assert not reader.is_unknown(DEMO.name)


def test_a_dynakube_is_unknown_once_the_others_are_written(metadata: Database, copy: Path) -> None:
    reader = DesiredStateReader(metadata, copy)
    desired_versions.replace_all(metadata, copy, [DEMO])
    assert reader.is_unknown(DynaKubeName("other"))
    assert not reader.is_unknown(DEMO.name)


def test_a_dynakube_is_unknown_once_it_is_written_that_there_is_none(metadata: Database, copy: Path) -> None:
    desired_versions.replace_all(metadata, copy, [])
    assert DesiredStateReader(metadata, copy).is_unknown(DEMO.name)


def test_a_dynakube_is_known_between_the_writes_of_copy_and_table(metadata: Database, copy: Path) -> None:
    desired_versions.replace_all(metadata, copy, [OTHER])
    reader = DesiredStateReader(metadata, copy)
    assert reader.is_unknown(DEMO.name)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(metadata, "transaction", _killed)
        desired_versions.replace_all(metadata, copy, [OTHER, DEMO])
    assert reader.get(DEMO.name) is None
    assert not reader.is_unknown(DEMO.name)


def _killed() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("copied_at", "expected"), [(2.0, "2.0"), (1.0, "1.0"), (0.5, "1.0")])
def test_the_newer_of_table_and_copy_counts(metadata: Database, copy: Path, copied_at: float, expected: str) -> None:
    desired_versions.replace_all(metadata, copy, [dataclasses.replace(DEMO, changed_at=1.0)])
    newer = dataclasses.replace(DEMO, version=Version("2.0"), changed_at=copied_at)
    copy.write_text(json.dumps([dataclasses.asdict(newer)]))
    found = DesiredStateReader(metadata, copy).get(DEMO.name)
    assert found is not None
    assert found.version == expected
