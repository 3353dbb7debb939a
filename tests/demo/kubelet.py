"""kubelet's part that the node ring's `Kubelet` does not play: plugin registration."""

from __future__ import annotations

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
