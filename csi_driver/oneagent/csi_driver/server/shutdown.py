"""Shutdown of the server: at once, or after an uninstall once the last volume is gone.

Kubelet unmounts a volume only through its driver. Without one it retries without end (TearDownAt in Kubernetes'
pkg/volume/csi/csi_mounter.go), and the pod hangs in Terminating. An upgraded driver soon ends that.
After an uninstall no driver returns, so the server stays for as long as pods have its volumes.

The server has no access to the cluster. The provisioner, which gets SIGTERM at the same moment, asks the API server and
leaves the uninstall marker in the data directory. A new server on the same directory removes it.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from oneagent.common import logs

log = logging.getLogger(__name__)

_MARKER_POLL_SECONDS: Final = 0.2
_VOLUME_POLL_SECONDS: Final = 1.0


def wait_until_drained(
    count_volumes: Callable[[], int], uninstall_marker: Path, verdict_seconds: float, signals: Iterable[signal.Signals]
) -> None:
    """Return when the server may exit. One of the signals, which must be blocked, ends the wait at once."""
    signals = tuple(signals)
    deadline = time.monotonic() + verdict_seconds
    while (rest := deadline - time.monotonic()) > 0 and count_volumes():
        if uninstall_marker.exists():
            _wait_for_last_volume(count_volumes, uninstall_marker, signals)
            return
        if signal.sigtimedwait(signals, min(rest, _MARKER_POLL_SECONDS)):
            return


def _wait_for_last_volume(
    count_volumes: Callable[[], int], uninstall_marker: Path, signals: Iterable[signal.Signals]
) -> None:
    log.info("driver uninstalled, staying until the last volume is gone", extra=logs.fields(volumes=count_volumes()))
    while (volumes := count_volumes()) and uninstall_marker.exists():
        log.debug("waiting for the last volume", extra=logs.fields(volumes=volumes))
        if signal.sigtimedwait(signals, _VOLUME_POLL_SECONDS):
            return
