"""Whoever searches the troubleshooting page for what he has read finds it: its words are those of the programs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneagent.csi_driver.cli import why

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
OURS = [
    "Why a pod has no agent",
    "The webhook does not become ready",
    "A pod hangs in ContainerCreating",
    "The driver does not respond",
    "A node keeps the startup taint",
]


def section(title: str) -> str:
    found = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, title
    return found


def first_column(title: str) -> list[str]:
    lines = re.findall(r"^\| (`.*?`) \|", section(title), re.MULTILINE)
    return re.findall(r"`([^`]+)`", "\n".join(lines))


def said() -> Iterator[str]:
    """What stands as text in the sources; of one with values in it, the pieces between them."""
    for part in ("common", "csi_driver", "operator", "webhook", "sidecars"):
        for path in (ROOT / part / "oneagent").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def pieces(message: str) -> list[str]:
    """What is the same each time that a message is said: no values, which are `…`, a number or one state of several."""
    found = (piece.strip(" .'") for piece in re.split(r"…|: |\((?:downloading)?|\)|/|\d+", message))
    return [piece for piece in found if len(piece) > 2]


@pytest.fixture(scope="module")
def texts() -> str:
    return "\n".join(said())


@pytest.mark.parametrize("title", OURS)
def test_messages_are_quoted_as_they_are_said(title: str, texts: str) -> None:
    messages = first_column(title)
    assert messages
    for message in messages:
        for piece in pieces(message):
            assert piece in texts, message


def test_every_verdict_on_a_pod_is_explained_and_no_other() -> None:
    assert sorted(first_column("Why a pod has no agent")) == sorted(why.Reason)
