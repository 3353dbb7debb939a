"""What happens to bytes on their way: others, fewer, more, or in another order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

Chance = random.Random
"""Where a case comes from."""


def byte(chance: Chance, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def bit(chance: Chance, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(chance: Chance, data: bytearray) -> None:
    del data[chance.randrange(len(data) + 1) :]


def tail(chance: Chance, data: bytearray) -> None:
    data += chance.choice((b"\0", b"tail", bytes(512), bytes(data[:600])))


def front(chance: Chance, data: bytearray) -> None:
    data[:0] = chance.choice((b"\0", b"front", bytes(512)))


def missing(chance: Chance, data: bytearray) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.randrange(1, 600)]


def again(chance: Chance, data: bytearray) -> None:
    start = chance.randrange(len(data) + 1)
    data[start:start] = data[start : start + chance.randrange(1, 600)]


ANY: Final[tuple[Callable[[Chance, bytearray], None], ...]] = (byte, byte, bit, bit, cut, tail, front, missing, again)


def anyhow(chance: Chance, data: bytes) -> bytes:
    """One to three alterations of any bytes."""
    altered = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        chance.choice(ANY)(chance, altered)
    return bytes(altered)
