"""`livenessprobe`: serves the CSI driver's Probe over HTTP for kubelet.

It has the flags and behaviour of the Go program of that name, with two deliberate differences:

- `/healthz` answers from the start: with 500 and the reason while there is no socket, where the Go program refuses the
  connection. Both fail the probe, but only an answer has a reason for kubelet's Event.
- If the driver's name is not available at first, the call is retried. The Go program exits with 1. During kubelet's
  restart back-off its probe fails, and kubelet kills a driver that is healthy by then.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from oneagent.common import logs
from oneagent.common.addresses import AddressError
from oneagent.common.http import page_server
from oneagent.sidecars import csi_client, go_flags, signals
from oneagent.sidecars import metrics as sidecars_metrics
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode

log = logging.getLogger(__name__)

_DEFAULT_PORT: Final = 9808
_NAME_RETRY_SECONDS: Final = 1.0
_NO_NAME: Final = "unknown-driver"


@dataclasses.dataclass(frozen=True)
class LivenessProbeSettings:
    """Settings from the flags."""

    csi_path: str
    probe_timeout_seconds: float
    health_address: str
    metrics_address: str
    """Address of the metrics: the same as `health_address`, another, or empty for none"""
    metrics_path: str
    log_format: logs.Format


def read_settings(arguments: Sequence[str]) -> LivenessProbeSettings:
    """Parse a command line."""
    flags = go_flags.Flags("livenessprobe", "Serves the health of a CSI driver over HTTP.")
    flags.take("--csi-address", default="/run/csi/socket", help="driver's socket (default /run/csi/socket)")
    flags.take("--probe-timeout", type=go_flags.seconds, default=3.0, help="timeout of each probe (default 3s)")
    flags.take("--http-endpoint", default="", help="host:port of /healthz and the metrics")
    flags.take(
        "--health-port",
        type=go_flags.port,
        default=_DEFAULT_PORT,
        help="deprecated: port of --http-endpoint, on all addresses (default 9808)",
    )
    flags.take(
        "--metrics-address", default="", help="deprecated: host:port of the metrics, which --http-endpoint serves, too"
    )
    flags.take("--metrics-path", default="/metrics", help="path of the metrics (default /metrics)")
    options = flags.read(arguments)
    if options.http_endpoint and options.health_port != _DEFAULT_PORT:
        flags.refuse("--http-endpoint and --health-port exclude each other; use --http-endpoint")
    if options.http_endpoint and options.metrics_address:
        flags.refuse("--http-endpoint and --metrics-address exclude each other; use --http-endpoint")
    if not options.metrics_path.startswith("/") or options.metrics_path == "/healthz":
        flags.refuse(f"--metrics-path={options.metrics_path} must start with / and not be /healthz")
    try:
        csi_path = csi_client.parse_address(options.csi_address)
    except ValueError as error:
        flags.refuse(f"--csi-address: {error}")
    return LivenessProbeSettings(
        csi_path=csi_path,
        probe_timeout_seconds=options.probe_timeout,
        health_address=options.http_endpoint or f":{options.health_port}",
        metrics_address=options.http_endpoint or options.metrics_address,
        metrics_path=options.metrics_path,
        log_format=options.log_format,
    )


class Probe:
    """Health of the driver, and its name once it is known."""

    def __init__(self, csi_path: str, timeout_seconds: float, operations: sidecars_metrics.Operations) -> None:
        self._operations = operations
        self._name = _NO_NAME
        self._driver = csi_client.Driver(csi_path, timeout_seconds, self._observe)
        self._healthy: bool | None = None

    def check(self) -> page_server.Answer:
        """Answer `/healthz`."""
        try:
            ready = self._driver.ready()
        except RpcError as error:
            return self._log_change(page_server.Answer(500, str(error)))
        if not ready:
            return self._log_change(page_server.Answer(500, "driver responded but is not ready"))
        return self._log_change(page_server.Answer(200, "ok"))

    def read_name(self) -> None:
        """Wait without limit for the driver's name, a label of the metrics."""
        while True:
            csi_client.wait_for_socket(self._driver.path, None)
            try:
                name = self._driver.name()
            except RpcError as error:
                log.warning("driver name not available; retrying", extra=logs.fields(reason=error))
                time.sleep(_NAME_RETRY_SECONDS)
                continue
            self._name = name or _NO_NAME
            log.info("probing the driver", extra=logs.fields(driver=name, socket=self._driver.path))
            return

    def _log_change(self, answer: page_server.Answer) -> page_server.Answer:
        # Only changes are logged, not each probe.
        healthy = answer.status == 200
        if healthy != self._healthy:
            level = logging.INFO if healthy else logging.WARNING
            log.log(level, "health changed", extra=logs.fields(healthy=healthy, reason=answer.body))
            self._healthy = healthy
        return answer

    def _observe(self, method: str, status: StatusCode, seconds: float) -> None:
        self._operations.observe(self._name, method, status, seconds)


def main() -> int:
    settings = read_settings(sys.argv[1:])
    logs.setup(settings.log_format, "info")
    codes = signals.install_handlers()
    operations = sidecars_metrics.Operations()
    probe = Probe(settings.csi_path, settings.probe_timeout_seconds, operations)
    try:
        _serve(settings, probe, operations)
    except AddressError as error:
        log.error("cannot serve", extra=logs.fields(reason=error))
        return 1
    threading.Thread(target=probe.read_name, name="name", daemon=True).start()
    return codes.get()


def _serve(settings: LivenessProbeSettings, probe: Probe, operations: sidecars_metrics.Operations) -> None:
    def metrics() -> page_server.Answer:
        return page_server.Answer(200, operations.render(), sidecars_metrics.CONTENT_TYPE)

    addresses: dict[str, dict[str, page_server.Page]] = {settings.health_address: {"/healthz": probe.check}}
    if settings.metrics_address:
        addresses.setdefault(settings.metrics_address, {})[settings.metrics_path] = metrics
    for address, pages in addresses.items():
        bound = page_server.serve(address, pages)
        log.info("serving", extra=logs.fields(address=bound, paths=sorted(pages)))


if __name__ == "__main__":
    sys.exit(main())
