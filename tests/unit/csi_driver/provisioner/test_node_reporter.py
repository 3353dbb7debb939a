"""Reports of a node: what is written, and when."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator

import pytest

from oneagent.common import dynakube, node_lease
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.kubernetes import errors
from oneagent.common.node_lease import DynaKubeReport, NodeReport
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.provisioner_state import VersionRecord
from oneagent.csi_driver.metadata.states import VersionState
from oneagent.csi_driver.provisioner.node_reporter import NodeReporter
from tests.fakes.provisioner import FakeDynaKubeSource, eventually, manifest

JITTER = 60.0
KUBE = dynakube.from_object(manifest("demo", "https://abc.example/api"))
VERSION = Version("1.277.0.20230914-094321")
ROW = DesiredState(DynaKubeName("demo"), version=VERSION, condition="not in the store yet")


class Node:
    """A reporter with a clock that stands unless it is moved."""

    def __init__(self, jitter: float = JITTER) -> None:
        self.now = 1000.0
        self.source = FakeDynaKubeSource()
        self.reporter = NodeReporter(self.source, jitter, lambda: self.now)

    def is_(self, state: VersionState | None, message: str = "", refusal: str = "") -> DynaKubeReport:
        record = None if state is None else VersionRecord(VERSION, state, message=message)
        found = self.reporter.describe(KUBE, ROW, record, refusal)
        self.reporter.update([found])
        return found

    def live(self, seconds: float, *states: tuple[VersionState | None, str]) -> int:
        """Let time pass while states come one after the other, each second; return the number of writes."""
        before = len(self.source.reports)
        for second in range(int(seconds)):
            self.now += 1
            self.is_(*states[second % len(states)])
            for thread in threading.enumerate():
                if thread.name == "node-report":
                    thread.join()
        return len(self.source.reports) - before


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    random.seed(1)
    yield


READY = (VersionState.READY, "")
PENDING = (VersionState.PENDING, "")
FAILED = (VersionState.FAILED, "404 Not Found")


def test_a_new_state_is_written_once_within_the_jitter() -> None:
    node = Node()
    assert node.live(JITTER + 1, READY) == 1
    assert node.live(600, READY) == 0
    assert node.live(2 * JITTER, FAILED) == 1
    assert node.source.states() == ["ready", "failed"]


def test_writes_of_a_fleet_are_spread_over_the_jitter() -> None:
    fleet = [Node() for _ in range(300)]
    for node in fleet:
        node.is_(*READY)
    planned = sorted(node.reporter._write_at - node.now for node in fleet)
    assert (planned[0] < 5, planned[-1] > 55) == (True, True)
    assert 20 < planned[150] < 40


def test_a_version_that_fails_again_and_again_costs_one_write() -> None:
    node = Node()
    assert node.live(3000, PENDING, (VersionState.DOWNLOADING, ""), FAILED) == 1
    assert node.source.states() == ["failed"]


def test_states_that_change_all_the_time_are_written_no_more_often_than_the_jitter() -> None:
    assert Node().live(600, READY, FAILED) <= 600 / JITTER


def test_progress_and_other_reasons_wait_for_minutes() -> None:
    node = Node()
    node.live(JITTER + 1, FAILED)
    assert node.live(200, (VersionState.FAILED, "another reason")) == 0
    assert node.live(300, (VersionState.FAILED, "another reason")) == 1
    assert node.source.reports[-1].dynakubes[0].message == "another reason"


def test_it_is_written_again_after_an_hour_because_the_lease_may_have_been_deleted() -> None:
    node = Node()
    node.live(JITTER + 1, READY)
    assert node.live(node_lease.REFRESH_SECONDS * 1.2 + 1, READY) == 1


def test_a_write_that_fails_is_repeated_with_back_off() -> None:
    attempts = list[float]()

    class Forbidden(FakeDynaKubeSource):
        def report(self, report: NodeReport) -> None:
            attempts.append(node.now)
            raise errors.ForbiddenError("403")

    node = Node(jitter=0)
    node.reporter = NodeReporter(Forbidden(), 0, lambda: node.now)
    node.live(900, READY)
    pauses = [after - before for before, after in itertools.pairwise(attempts)]
    assert 4 <= len(attempts) <= 8
    assert pauses[-1] > pauses[0]


def test_a_refusal_comes_before_everything_else() -> None:
    assert Node().is_(*READY, refusal="not signed") == DynaKubeReport("demo", VERSION, "refused", "not signed")


def test_what_is_not_there_yet_has_the_reason_of_its_row() -> None:
    assert Node().is_(None) == DynaKubeReport("demo", VERSION, "pending", "not in the store yet")


def test_a_corruption_is_reported_without_delay_by_progress() -> None:
    node = Node(jitter=0)
    node.live(1, READY)
    node.reporter.add_corruption(VERSION, "lib.so (content)")
    node.is_(*PENDING)
    eventually(lambda: node.source.reports[-1].corruptions)
    assert node.source.reports[-1].corruptions[0].message == "lib.so (content)"


class TestLease:
    def test_holds_a_few_hundred_bytes_whatever_the_messages_are(self) -> None:
        kubes = tuple(DynaKubeReport(f"kube-{number}", VERSION, "failed", "x" * 10_000) for number in range(500))
        lease = node_lease.manifest("node-1", "dynatrace", NodeReport(kubes), None)
        assert len(str(lease)) < 50_000
        node, report = node_lease.read(lease)
        assert (node, len(report.dynakubes)) == ("node-1", 100)

    @pytest.mark.parametrize("text", ["", "nothing", "[]", '{"dynakubes": 1}', "[" * 100_000])
    def test_that_cannot_be_read_is_an_empty_report(self, text: str) -> None:
        lease = {"metadata": {"annotations": {node_lease.ANNOTATION: text}}, "spec": {"holderIdentity": "node-1"}}
        assert node_lease.read(lease) == ("node-1", NodeReport())

    def test_of_a_newer_driver_is_read(self) -> None:
        text = '{"dynakubes": [{"name": "a", "version": "1", "state": "ready", "more": 1}], "further": {}}'
        lease = {"metadata": {"annotations": {node_lease.ANNOTATION: text}}, "spec": {"holderIdentity": "node-1"}}
        assert node_lease.read(lease)[1].dynakubes == (DynaKubeReport("a", "1", "ready"),)


def test_a_retry_of_a_failed_install_is_reported_as_failed_also_by_a_provisioner_that_was_just_started() -> None:
    node = Node()
    assert node.is_(VersionState.DOWNLOADING).state == "pending"
    assert node.is_(VersionState.DOWNLOADING, "404 Not Found").state == "failed"
    assert node.is_(VersionState.READY).state == "ready"
