"""What every unit test leaves as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# OpenSSL would read all CAs of this machine for each context, in 30 ms; no test trusts one of them. An empty file is
# refused by lightkube.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parents[1] / "fakes" / "unused_authority.pem")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A program that a test runs may send the log to a stream that is closed after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
