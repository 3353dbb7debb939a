"""The clock for timeouts and retention: elapsed time is elapsed time, whatever the wall clock does."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from oneagent.csi_driver.linux.clock import SAVE_SECONDS, SteadyClock

YEAR = 365 * 86400.0
NOW = 1_700_000_000.0


@dataclasses.dataclass
class Node:
    """A node with a wall clock that may be stepped."""

    path: Path
    wall: float = NOW
    boottime: float = 10.0
    boot_id: str = "first"

    def start(self) -> SteadyClock:
        return SteadyClock(
            self.path, wall=lambda: self.wall, boottime=lambda: self.boottime, boot_id=lambda: self.boot_id
        )

    def run_for(self, seconds: float) -> None:
        self.wall += seconds
        self.boottime += seconds

    def reboot(self, off_seconds: float) -> None:
        self.wall += off_seconds
        self.boottime = 5.0
        self.boot_id += "'"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "clock.json")


def test_shows_the_wall_clocks_time_at_first(tmp_path: Path) -> None:
    assert abs(SteadyClock(tmp_path / "clock.json").now() - time.time()) < 5


@pytest.mark.parametrize("step", [YEAR, -YEAR])
def test_a_step_of_the_wall_clock_changes_nothing_for_running_processes_and_new_ones(node: Node, step: float) -> None:
    clock = node.start()
    clock.save()
    node.run_for(100)
    node.wall += step
    assert clock.now() == NOW + 100
    assert node.start().now() == NOW + 100
    node.run_for(SAVE_SECONDS)
    node.start().save()
    assert node.start().now() == NOW + 100 + SAVE_SECONDS


def test_a_reboot_counts_by_the_wall_clock(node: Node) -> None:
    node.start().save()
    node.run_for(SAVE_SECONDS)
    node.reboot(300)
    assert node.start().now() == NOW + SAVE_SECONDS + 300


def test_a_step_before_the_reboot_does_not_count(node: Node) -> None:
    clock = node.start()
    clock.save()
    node.wall += YEAR
    node.run_for(SAVE_SECONDS)
    clock.save()
    node.reboot(300)
    assert node.start().now() == NOW + SAVE_SECONDS + 300


def test_a_wall_clock_that_is_behind_after_a_reboot_turns_no_time_back(node: Node) -> None:
    node.start().save()
    node.reboot(-YEAR)
    clock = node.start()
    assert clock.now() == NOW
    clock.save()
    node.wall += YEAR
    node.run_for(50)
    assert node.start().now() == NOW + 50, "the step comes after the boot"


def test_the_anchor_is_written_once_a_minute_and_again_when_it_is_gone(node: Node) -> None:
    clock = node.start()
    clock.save()
    written = node.path.read_text()
    node.run_for(SAVE_SECONDS / 2)
    clock.save()
    assert node.path.read_text() == written
    node.path.unlink()
    clock.save()
    assert node.path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot_id": "first"}', '{"boot_id": 1, "boottime": "x"}'])
def test_an_anchor_that_can_not_be_read_is_as_none(node: Node, text: str) -> None:
    node.path.write_text(text)
    assert node.start().now() == NOW


def test_a_disk_that_can_not_be_written_is_no_error(tmp_path: Path) -> None:
    clock = Node(tmp_path / "gone/clock.json").start()
    clock.save()
    assert clock.now() == NOW
