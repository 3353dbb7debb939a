"""`livenessprobe`: turns the CSI driver's Probe into an HTTP answer that kubelet's probes understand.

Takes the flags of the Go program of that name and does its work, with two differences, both on purpose:

- `/healthz` answers from the start. While there is no socket it says so with a 500, where the Go program
  refuses the connection: a failing probe either way, but this one with its reason in kubelet's event.
- A driver that does not say its name at first is asked again. The Go program ends with 1, and while kubelet
  holds back its restart, the driver, by then healthy, is killed for want of an answer.
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
from oneagent.sidecars import csi_client, go_flags, http_server, signals
from oneagent.sidecars import metrics as sidecars_metrics
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode

log = logging.getLogger(__name__)

_DEFAULT_PORT: Final = 9808
_NAME_RETRY_SECONDS: Final = 1.0
_NO_NAME: Final = "unknown-driver"


@dataclasses.dataclass(frozen=True)
class LivenessProbeSettings:
    """What the flags ask for."""

    csi_path: str
    probe_timeout_seconds: float
    health_address: str
    metrics_address: str
    """Where metrics are served: the same as `health_address`, another, or empty for nowhere."""
    metrics_path: str
    log_format: logs.Format


def read_settings(words: Sequence[str]) -> LivenessProbeSettings:
    """The settings of a command line."""
    flags = go_flags.Flags("livenessprobe", "Serves a CSI driver's health over HTTP.")
    flags.add_argument("--csi-address", default="/run/csi/socket", help="the driver's socket")
    flags.add_argument("--probe-timeout", type=go_flags.seconds, default=3.0, help="for one probe (default 3s)")
    flags.add_argument("--http-endpoint", default="", help="host:port of /healthz and of the metrics")
    flags.add_argument("--health-port", type=go_flags.port, default=_DEFAULT_PORT, help="deprecated (default 9808)")
    flags.add_argument("--metrics-address", default="", help="deprecated: use --http-endpoint")
    flags.add_argument("--metrics-path", default="/metrics", help="path of the metrics (default /metrics)")
    options = flags.read(words)
    if options.http_endpoint and options.health_port != _DEFAULT_PORT:
        flags.refuse("--http-endpoint and --health-port exclude each other; use --http-endpoint")
    if options.http_endpoint and options.metrics_address:
        flags.refuse("--http-endpoint and --metrics-address exclude each other; use --http-endpoint")
    if not options.metrics_path.startswith("/") or options.metrics_path == "/healthz":
        flags.refuse(f"--metrics-path={options.metrics_path} must start with / and not be /healthz")
    try:
        csi_path = csi_client.path_of(options.csi_address)
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
    """The driver as it is watched: its health on request, its name once it has said it."""

    def __init__(self, csi_path: str, timeout_seconds: float, operations: sidecars_metrics.Operations) -> None:
        self._operations = operations
        self._name = _NO_NAME
        self._driver = csi_client.Driver(csi_path, timeout_seconds, self._observe)
        self._healthy: bool | None = None

    def check(self) -> http_server.Answer:
        """`/healthz`."""
        try:
            ready = self._driver.ready()
        except RpcError as error:
            return self._say(http_server.Answer(500, str(error)))
        if not ready:
            return self._say(http_server.Answer(500, "driver responded but is not ready"))
        return self._say(http_server.Answer(200, "ok"))

    def learn_name(self) -> None:
        """Wait, for ever if it must be, for the driver and the name that its metrics are labelled with."""
        while True:
            csi_client.wait(self._driver.path, None)
            try:
                name = self._driver.name()
            except RpcError as error:
                log.warning("the driver did not say its name; asking again", extra=logs.facts(reason=error))
                time.sleep(_NAME_RETRY_SECONDS)
                continue
            self._name = name or _NO_NAME
            log.info("probing the driver", extra=logs.facts(driver=name, socket=self._driver.path))
            return

    def _say(self, answer: http_server.Answer) -> http_server.Answer:
        # One line a change, not one a probe.
        healthy = answer.status == 200
        if healthy != self._healthy:
            level = logging.INFO if healthy else logging.WARNING
            log.log(level, "health changed", extra=logs.facts(healthy=healthy, reason=answer.body))
            self._healthy = healthy
        return answer

    def _observe(self, method: str, status: StatusCode, seconds: float) -> None:
        self._operations.observe(self._name, method, status, seconds)


def main() -> int:
    settings = read_settings(sys.argv[1:])
    logs.setup(settings.log_format, "info")
    codes = signals.catch()
    operations = sidecars_metrics.Operations()
    probe = Probe(settings.csi_path, settings.probe_timeout_seconds, operations)
    try:
        _serve(settings, probe, operations)
    except http_server.AddressError as error:
        log.error("cannot serve", extra=logs.facts(reason=error))
        return 1
    threading.Thread(target=probe.learn_name, name="name", daemon=True).start()
    return codes.get()


def _serve(settings: LivenessProbeSettings, probe: Probe, operations: sidecars_metrics.Operations) -> None:
    def metrics() -> http_server.Answer:
        return http_server.Answer(200, operations.render(), sidecars_metrics.CONTENT_TYPE)

    addresses: dict[str, dict[str, http_server.Page]] = {settings.health_address: {"/healthz": probe.check}}
    if settings.metrics_address:
        addresses.setdefault(settings.metrics_address, {})[settings.metrics_path] = metrics
    for address, pages in addresses.items():
        bound = http_server.serve(address, pages)
        log.info("serving", extra=logs.facts(address=bound, paths=sorted(pages)))


if __name__ == "__main__":
    sys.exit(main())
