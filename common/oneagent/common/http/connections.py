"""Listening and connection limits of all HTTP servers.

A connection costs a descriptor, and a process that has none left can neither mount nor read a file. So each port has
a bound, and each connection a time in which its request has to be complete. Beyond the bound a new connection takes
the place of another one: the oldest that is not being answered, of the peer that has the most. A peer that opens
connections and sends nothing takes places from itself, and kubelet's probe is still answered.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are accepted; they cost the process nothing."""
_ALL: Final = ("", "::")
_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

_Connection = TypeVar("_Connection")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Of one port."""

    connections: int = 32
    request_seconds: float = 10.0
    """From the first byte that could come to the last one of the request, and again for the answer's way."""
    idle_seconds: float = 10.0
    """Longest rest after an answer, where connections are kept for further requests."""
    backlog: int = BACKLOG


DEFAULT: Final = ConnectionLimits()


def listen(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """Listen at a host; without one, or at `::`, at all addresses of IPv4 and, where the node has it, of IPv6.

    `OSError`.
    """
    if host not in _ALL:
        return _listen_at(host, port, backlog)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return socket.create_server(("", port), backlog=backlog)


def _listen_at(host: str, port: int, backlog: int) -> socket.socket:
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError as error:
        raise OSError(errno.EINVAL, f"{host!r} is not the name of a host") from error
    return socket.create_server(where, family=family, backlog=backlog)


def choose_evicted(peers: Mapping[_Connection, str]) -> _Connection | None:
    """Return the oldest connection of the peer that has the most; `peers` are in the order of their coming."""
    if not peers:
        return None
    busiest = Counter(peers.values()).most_common(1)[0][0]
    return next(connection for connection, peer in peers.items() if peer == busiest)
