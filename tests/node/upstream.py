"""The programs in Go that the node ring tests against, or the reason why they are not here.

`tests/tools/build.sh` builds them: those that others test CSI drivers with, and two peers of our own that
speak the field's gRPC, grpc-go. Where it could not (no Go, no way to the modules), a test that wants
one is skipped with the reason that the script left; in CI it fails instead, so that a green run there
means that the driver was tested against them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, Protocol

import pytest

Name = Literal["csi-sanity", "csc", "driver-peer", "kubelet-peer"]

POD_CONTEXT: Final = {
    "csi.storage.k8s.io/ephemeral": "true",
    "csi.storage.k8s.io/pod.name": "shop",
    "csi.storage.k8s.io/pod.namespace": "default",
    "csi.storage.k8s.io/pod.uid": "0f4d2c1e-7a55-4f0e-9f4a-3c5d9b1f6a27",
    "csi.storage.k8s.io/serviceAccount.name": "default",
    "mode": "app",
    "dynakube": "demo",
}
"""What kubelet sends with the publish of an inline volume, and what the pod's volume asks for."""

_BIN: Final = Path(__file__).parents[1] / "tools" / "bin"


class Driver(Protocol):
    """What these tests want of the fixture `driver`: where the running driver is, and where it may mount."""

    @property
    def socket(self) -> Path: ...

    @property
    def target_root(self) -> Path: ...


def program(name: Name) -> Path:
    """The path of a program; skips the calling test (in CI: fails it) where there is none."""
    path = _BIN / name
    if path.exists():
        return path
    try:
        reason = f"{name} is not built: {(_BIN / '.why-not').read_text().strip()}"
    except FileNotFoundError:
        reason = f"{name} is not built: run make tools"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
