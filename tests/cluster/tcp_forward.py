"""TCP forward into the cluster's network, to its API server."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Final

from tests.cluster.sandbox import DOOR_VARIABLE
from tests.cluster.sandbox_init import NODE_ADDRESS

_PIECE: Final = 64 * 1024


def open_door() -> int:
    """The port on the machine's loopback device that leads to the API server from now on."""
    door = socket.socket(fileno=int(os.environ[DOOR_VARIABLE]))
    threading.Thread(target=_serve, args=(door,), daemon=True).start()
    port: int = door.getsockname()[1]
    return port


def _serve(door: socket.socket) -> None:
    while True:
        visitor, _ = door.accept()
        try:
            server = socket.create_connection((NODE_ADDRESS, 6443))
        except OSError:
            visitor.close()
            continue
        for source, sink in ((visitor, server), (server, visitor)):
            threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
