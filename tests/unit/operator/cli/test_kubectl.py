"""What kubectl answers, or fails to, is told apart; and none of it takes longer than it may."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from oneagent.operator.cli import node_reports
from oneagent.operator.cli.kubectl import (
    Kubectl,
    KubectlError,
    KubectlForbiddenError,
    KubectlNotFoundError,
    KubectlTimeoutError,
    KubectlUnusableError,
)
from tests.fakes.kubectl import HANGING, Folder
from tests.unit.operator.cli import snapshots
from tests.unit.operator.cli.snapshots import DRIVER_POD, NODE


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def asking(folder: Folder, seconds: float = 30) -> Kubectl:
    return Kubectl(str(folder.program), (), "dynatrace", seconds)


def program(folder: Path, script: str) -> Kubectl:
    path = folder / "other"
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
        program(tmp_path, f"cat {tmp_path}/said >&2; exit 1")("get", "pods")
    assert type(raised.value) is kind
    assert str(raised.value) == f"kubectl get pods: {said}"


def test_what_kubectls_libraries_log_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "said").write_text('E1123 15:10:48.3 1 memcache.go:265] "Unhandled Error" err="x"\nerror: no way\n')
    with pytest.raises(KubectlError, match=r"^kubectl get pods: error: no way$"):
        program(tmp_path, f"cat {tmp_path}/said >&2; exit 1")("get", "pods")


def test_a_node_that_does_not_answer_has_that_for_an_answer(folder: Folder) -> None:
    folder.answers(DRIVER_POD, HANGING)
    began = time.monotonic()
    (answer,) = node_reports.read_statuses(asking(folder, 0.5), {NODE: snapshots.pod(DRIVER_POD)})
    assert time.monotonic() - began < 30
    assert answer.status is None
    assert "no answer within 0.5 s" in answer.problem


def test_a_driver_of_another_release_is_no_crash(folder: Folder) -> None:
    folder.answers(DRIVER_POD, ["something", "else"])
    (answer,) = node_reports.read_statuses(asking(folder), {NODE: snapshots.pod(DRIVER_POD)})
    assert "of another release" in answer.problem


def test_an_answer_in_json_counts_whatever_the_exit_code(folder: Folder) -> None:
    folder.answers(DRIVER_POD, snapshots.status_json(problems=["the disk is full"]))
    (answer,) = node_reports.read_statuses(asking(folder), {NODE: snapshots.pod(DRIVER_POD)})
    assert (answer.problem, answer.problems) == ("", ("the disk is full",))


def test_of_a_long_log_the_end_is_kept(tmp_path: Path) -> None:
    endless = program(tmp_path, "seq 1 100000")
    assert endless.tail(12, "logs") == b"99999\n100000\n"[-12:]
    assert endless.tail(0, "logs") == b""


def test_a_log_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    following = Kubectl(program(tmp_path, "echo one; exec sleep 60").program, (), "dynatrace", 0.5)
    with pytest.raises(KubectlTimeoutError, match=r"not done within 0\.5 s"):
        following.tail(100, "logs")
