"""kubelet's part that the node ring's `Kubelet` does not play: plugin registration and liveness probes."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import grpc

from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2 as registration
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2_grpc as registration_grpc


def register(registration_socket: Path) -> registration.PluginInfo:
    """Ask a plugin who it is, and tell it that it is registered."""
    with grpc.insecure_channel(f"unix:{registration_socket}") as channel:
        stub = registration_grpc.RegistrationStub(channel)
        info: registration.PluginInfo = stub.GetInfo(registration.InfoRequest(), timeout=10, wait_for_ready=True)
        stub.NotifyRegistrationStatus(registration.RegistrationStatus(plugin_registered=True), timeout=10)
        return info


def probe(port: int) -> tuple[int, str]:
    """Status and text of `/healthz`; status 0 while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()
    except ConnectionRefusedError:
        return 0, ""
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
