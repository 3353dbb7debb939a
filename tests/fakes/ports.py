"""TCP ports of programs on this machine: a free one, and what answers on one."""

from __future__ import annotations

import http.client
import itertools
import os
import random
import re
import socket
import urllib.request
from collections.abc import Iterator
from typing import Final

# Below those that Linux gives away by itself, and of every worker of a run others: nobody else takes one between the
# time when it is found free and the time when a program listens on it.
_FIRST: Final = 15_000
_EACH: Final = 1_000
_WORKERS: Final = 16


def _candidates() -> Iterator[int]:
    """Those of this worker again and again; where it begins is random, for other runs on this machine."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    start = random.randrange(_EACH)
    return itertools.cycle(_FIRST + worker * _EACH + (start + number) % _EACH for number in range(_EACH))


_next = _candidates()


def free() -> int:
    """Return a free port; each call returns another one."""
    for port in itertools.islice(_next, _EACH):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise OSError(f"all ports from {_FIRST} to {_FIRST + _WORKERS * _EACH} that this worker may use are taken")


def get(port: int, path: str = "/healthz") -> tuple[int, str]:
    """Return status and body of a page; status 0 if nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except ConnectionRefusedError:
        return 0, ""
    finally:
        connection.close()


def metric(address: str, name: str) -> float:
    """Return the value of a metric of a server of Prometheus metrics; labels are a part of the name."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
        found = re.search(rf"^{re.escape(name)} (\S+)", page.read().decode(), re.MULTILINE)
    assert found, name
    return float(found[1])
