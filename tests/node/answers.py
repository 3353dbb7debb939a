"""What a call was answered, said in one line of a test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import grpc
import pytest


@contextlib.contextmanager
def refused(code: grpc.StatusCode, containing: str = "") -> Iterator[None]:
    """The block's call has to fail with this status, and its message has to hold this text."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    status = status_of(caught.value)
    assert status == (code, status[1]), status
    assert containing in status[1], status


def status_of(answer: object) -> tuple[grpc.StatusCode, str]:
    """Status and message of an error, or of a future that has one."""
    assert isinstance(answer, grpc.Call)
    return answer.code(), answer.details() or ""


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be so"
        time.sleep(0.01)
