"""Errors of kubectl are told apart, and every call has a timeout."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from oneagent.operator.cli import node_reports, snapshot
from oneagent.operator.cli.kubectl import (
    Kubectl,
    KubectlError,
    KubectlForbiddenError,
    KubectlNotFoundError,
    KubectlTimeoutError,
    KubectlUnusableError,
)
from tests.fakes.kubectl import HANGING, FakeCluster
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NODE


@pytest.fixture
def fake_cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path)


def create_client(fake_cluster: FakeCluster, seconds: float = 30) -> Kubectl:
    return Kubectl(str(fake_cluster.program), (), "dynatrace", seconds)


def create_program(directory: Path, script: str) -> Kubectl:
    path = directory / "other"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return Kubectl(str(path), (), "dynatrace", 30)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('Error from server (NotFound): pods "x" not found', KubectlNotFoundError),
        ('error: the server doesn\'t have a resource type "dynakubes"', KubectlNotFoundError),
        ('Error from server (Forbidden): pods is forbidden: User "me" cannot list', KubectlForbiddenError),
        (
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            KubectlUnusableError,
        ),
        ("Error in configuration: context was not found for specified context: prod", KubectlUnusableError),
        ("error: You must be logged in to the server (Unauthorized)", KubectlUnusableError),
        ("error: something else", KubectlError),
    ],
)
def test_errors_are_told_apart_and_keep_kubectls_words(tmp_path: Path, said: str, kind: type[KubectlError]) -> None:
    (tmp_path / "said").write_text(said)
    with pytest.raises(KubectlError) as raised:
        create_program(tmp_path, f"cat {tmp_path}/said >&2; exit 1")("get", "pods")
    assert type(raised.value) is kind
    assert str(raised.value) == f"kubectl get pods: {said}"


def test_what_kubectls_libraries_log_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "said").write_text('E1123 15:10:48.3 1 memcache.go:265] "Unhandled Error" err="x"\nerror: no way\n')
    with pytest.raises(KubectlError, match=r"^kubectl get pods: error: no way$"):
        create_program(tmp_path, f"cat {tmp_path}/said >&2; exit 1")("get", "pods")


def test_a_node_without_a_response_has_a_report_with_the_reason(fake_cluster: FakeCluster) -> None:
    fake_cluster.set_exec_output(DRIVER_POD, HANGING)
    began = time.monotonic()
    (report,) = node_reports.read_statuses(create_client(fake_cluster, 0.5), {NODE: snapshots.pod(DRIVER_POD)})
    assert time.monotonic() - began < 30
    assert report.status is None
    assert "no response within 0.5 s" in report.problem


def test_a_driver_of_another_release_is_no_crash(fake_cluster: FakeCluster) -> None:
    fake_cluster.set_exec_output(DRIVER_POD, ["something", "else"])
    (report,) = node_reports.read_statuses(create_client(fake_cluster), {NODE: snapshots.pod(DRIVER_POD)})
    assert "of another release" in report.problem


def test_json_output_counts_whatever_the_exit_code(fake_cluster: FakeCluster) -> None:
    fake_cluster.set_exec_output(DRIVER_POD, snapshots.status_json(problems=["the disk is full"]))
    (report,) = node_reports.read_statuses(create_client(fake_cluster), {NODE: snapshots.pod(DRIVER_POD)})
    assert (report.problem, report.problems) == ("", ("the disk is full",))


def test_a_status_of_a_newer_driver_keeps_its_new_fields_in_json(fake_cluster: FakeCluster) -> None:
    output = snapshots.status_json(new=1, versions=[{"version": "1.2", "state": "ready", "new": {"deeper": 2}}])
    fake_cluster.set_exec_output(DRIVER_POD, output)
    (report,) = node_reports.read_statuses(create_client(fake_cluster), {NODE: snapshots.pod(DRIVER_POD)})
    assert node_reports.to_json(report) == {"node": NODE, "pod": DRIVER_POD, "status": output, "problem": ""}


def test_of_a_long_log_the_end_is_kept(tmp_path: Path) -> None:
    endless = create_program(tmp_path, "seq 1 100000")
    assert endless.tail(12, "logs") == b"99999\n100000\n"[-12:]
    assert endless.tail(0, "logs") == b""


def test_a_log_that_does_not_end_is_a_timeout(tmp_path: Path) -> None:
    following = Kubectl(create_program(tmp_path, "echo one; exec sleep 60").program, (), "dynatrace", 0.5)
    with pytest.raises(KubectlTimeoutError, match=r"not done within 0\.5 s"):
        following.tail(100, "logs")


def test_every_field_of_a_snapshot_has_its_reader(fake_cluster: FakeCluster) -> None:
    assert sorted(snapshot._readers(create_client(fake_cluster))) == sorted(snapshot.FIELDS)
