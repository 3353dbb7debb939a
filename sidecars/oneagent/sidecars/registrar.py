"""`csi-node-driver-registrar`: registers the CSI driver with the node's kubelet.

It has the flags and behaviour of the Go program of that name, with deliberate differences:

- GetInfo calls the driver's Probe first, and returns UNAVAILABLE if the driver does not answer. So kubelet never
  registers a dead driver, and `/healthz`, which calls GetInfo, reports it.
- If the file of the registration socket was removed, it is created again. A successor's socket is left alone.
- A refused registration is answered before the program exits with 1, and no stale socket stays behind.
- `--http-endpoint` also serves `/metrics`: the version and what each process of the driver reports about itself.
- With `--stay-while-driver-serves` it exits after SIGTERM only once the driver has ended. Kubelet calls registered
  drivers only, and after an uninstall the driver serves until its last volume is unmounted.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from oneagent.common import logs
from oneagent.common.addresses import AddressError
from oneagent.common.http import page_server
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2 as registration
from oneagent.sidecars import csi_client, go_flags, signals
from oneagent.sidecars import metrics as sidecars_metrics
from oneagent.sidecars.grpc import client
from oneagent.sidecars.grpc import server as grpc_server
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode

log = logging.getLogger(__name__)

GET_INFO: Final = "/pluginregistration.Registration/GetInfo"
NOTIFY: Final = "/pluginregistration.Registration/NotifyRegistrationStatus"

_WAIT_FOR_DRIVER_SECONDS: Final = 30.0
_SIGNAL_CHECK_SECONDS: Final = 0.1
_SOCKET_CHECK_SECONDS: Final = 1.0
_DRIVER_CHECK_SECONDS: Final = 0.5
_DRAIN_SECONDS: Final = 5.0


@dataclasses.dataclass(frozen=True)
class RegistrarSettings:
    """Settings from the flags."""

    csi_path: str
    """The driver's socket in this container"""
    kubelet_registration_path: str
    """The driver's socket on the host, for kubelet"""
    plugin_registration_path: Path
    """Kubelet's directory `plugins_registry` in this container"""
    timeout_seconds: float
    """Timeout of each call to the driver"""
    http_address: str
    """Address of `/healthz` and `/metrics`; empty for none"""
    stay_while_driver_serves: bool
    """Serve after a first signal until the driver ends, or a second signal"""
    log_format: logs.Format


def read_settings(arguments: Sequence[str]) -> RegistrarSettings | None:
    """Parse a command line; `None` for the probe mode, which has nothing to do."""
    flags = go_flags.Flags("csi-node-driver-registrar", "Registers a CSI driver with this node's kubelet.")
    flags.take(
        "--csi-address", default="/run/csi/socket", help="driver's socket in this container (default /run/csi/socket)"
    )
    flags.take("--kubelet-registration-path", default="", help="driver's socket on the host; required")
    flags.take(
        "--plugin-registration-path",
        default="/registration",
        help="kubelet's directory plugins_registry in this container (default /registration)",
    )
    flags.take("--timeout", type=go_flags.seconds, default=1.0, help="timeout of each call to the driver (default 1s)")
    flags.take("--http-endpoint", default="", help="host:port of /healthz and /metrics (default: none)")
    flags.take(
        "--health-port", type=go_flags.port, default=0, help="deprecated: port of --http-endpoint, on all addresses"
    )
    flags.take(
        "--mode",
        default="",
        help="deprecated: with kubelet-registration-probe, exit with 0 at once; without effect otherwise",
    )
    flags.take("--connection-timeout", metavar="DURATION", help="deprecated, without effect")
    flags.switch("stay-while-driver-serves", "stay registered after SIGTERM until the driver has ended")
    flags.switch("enable-pprof", "without effect: there is no pprof endpoint")
    options = flags.read(arguments)
    if not options.kubelet_registration_path:
        flags.refuse("--kubelet-registration-path is required: the driver's socket as kubelet sees it")
    if options.mode == "kubelet-registration-probe":
        return None
    if options.http_endpoint and options.health_port:
        flags.refuse("--http-endpoint and --health-port exclude each other; use --http-endpoint")
    try:
        csi_path = csi_client.parse_address(options.csi_address)
    except ValueError as error:
        flags.refuse(f"--csi-address: {error}")
    return RegistrarSettings(
        csi_path=csi_path,
        kubelet_registration_path=options.kubelet_registration_path,
        plugin_registration_path=Path(options.plugin_registration_path),
        timeout_seconds=options.timeout,
        http_address=f":{options.health_port}" if options.health_port else options.http_endpoint,
        stay_while_driver_serves=options.stay_while_driver_serves,
        log_format=options.log_format,
    )


class Registration:
    """The service that kubelet calls."""

    def __init__(self, info: registration.PluginInfo, driver: csi_client.Driver, codes: signals.ExitCodes) -> None:
        self._info = info
        self._driver = driver
        self._codes = codes

    def handlers(self) -> dict[str, grpc_server.Handler]:
        return {GET_INFO: self.get_info, NOTIFY: self.notify}

    def get_info(self, _request: bytes) -> bytes:
        """Return the driver's name and socket, if the driver answers."""
        try:
            # A driver that is not ready is alive; kubelet's next call shows whether it can serve.
            self._driver.ready()
        except RpcError as error:
            if error.status is not StatusCode.UNIMPLEMENTED:
                raise RpcError(StatusCode.UNAVAILABLE, f"the CSI driver does not answer: {error}") from error
        return self._info.SerializeToString()

    def notify(self, request: bytes) -> bytes:
        """Log kubelet's result. A refusal ends the program; `stop` drains, so the response is sent before."""
        try:
            status = registration.RegistrationStatus.FromString(request)
        except DecodeError as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "the request is not a RegistrationStatus") from error
        if status.plugin_registered:
            log.info("driver registered", extra=logs.fields(driver=self._info.name))
        else:
            details = logs.fields(driver=self._info.name, reason=status.error)
            log.error("driver registration refused by kubelet; exiting to retry", extra=details)
            self._codes.put(1)
        return registration.RegistrationStatusResponse().SerializeToString()


def check_health(socket_path: Path, name: str, timeout_seconds: float) -> page_server.Answer:
    """Answer `/healthz`: can kubelet register the driver now?"""
    if not socket_path.exists():
        return page_server.Answer(404, "registration socket does not exist")
    try:
        answer = client.call(str(socket_path), GET_INFO, b"", timeout_seconds)
        answered = registration.PluginInfo.FromString(answer).name
    except (RpcError, DecodeError) as error:
        return page_server.Answer(500, str(error))
    if answered != name:
        return page_server.Answer(500, f"the registration socket answers for {answered!r}, not for {name!r}")
    return page_server.Answer(200, "ok")


def render_metrics() -> page_server.Answer:
    """Answer `/metrics`."""
    return page_server.Answer(200, sidecars_metrics.render_process("registrar"), sidecars_metrics.CONTENT_TYPE)


def main() -> int:
    settings = read_settings(sys.argv[1:])
    if settings is None:
        return 0
    logs.setup(settings.log_format, "info")
    codes = signals.install_handlers()
    driver = csi_client.Driver(settings.csi_path, settings.timeout_seconds)
    name = _wait_for_driver_name(driver, codes)
    if isinstance(name, int):
        return name
    return _register(settings, driver, name, codes)


def _wait_for_driver_name(driver: csi_client.Driver, codes: signals.ExitCodes) -> str | int:
    """The driver's name, or an exit code: 1 if there is no name, 0 after a signal, which ends the wait at once."""
    names: list[str] = []
    reading = threading.Thread(target=lambda: names.append(_read_driver_name(driver)), name="driver", daemon=True)
    reading.start()
    while reading.is_alive():
        try:
            return codes.get(timeout=_SIGNAL_CHECK_SECONDS)
        except queue.Empty:
            continue
    return names[0] if names and names[0] else 1


def _read_driver_name(driver: csi_client.Driver) -> str:
    log.info("connecting to the driver", extra=logs.fields(socket=driver.path))
    if not csi_client.wait_for_socket(driver.path, _WAIT_FOR_DRIVER_SECONDS):
        details = logs.fields(socket=driver.path, seconds=_WAIT_FOR_DRIVER_SECONDS)
        log.error("driver not reachable; check that it runs and that --csi-address names its socket", extra=details)
        return ""
    try:
        name = driver.name()
    except RpcError as error:
        log.error("driver name not available", extra=logs.fields(socket=driver.path, reason=error))
        return ""
    if not name or "/" in name:
        log.error("driver name invalid: it is empty or has a slash", extra=logs.fields(driver=name))
        return ""
    return name


def _register(settings: RegistrarSettings, driver: csi_client.Driver, name: str, codes: signals.ExitCodes) -> int:
    info = registration.PluginInfo(
        type="CSIPlugin",
        name=name,
        endpoint=settings.kubelet_registration_path,
        supported_versions=["1.0.0"],
    )
    socket_path = settings.plugin_registration_path / f"{name}-reg.sock"
    server = grpc_server.Server(socket_path, Registration(info, driver, codes).handlers())
    try:
        server.ensure_socket()
        if settings.http_address:
            # GetInfo needs up to the driver's timeout by itself.
            timeout = settings.timeout_seconds + 1
            pages = {"/healthz": lambda: check_health(socket_path, name, timeout), "/metrics": render_metrics}
            bound = page_server.serve(settings.http_address, pages)
            log.info("serving", extra=logs.fields(address=bound, paths=sorted(pages)))
    except (grpc_server.SocketInUseError, AddressError, OSError) as error:
        log.error("cannot serve", extra=logs.fields(socket=socket_path, reason=error))
        server.stop(0)
        return 1
    log.info("waiting for kubelet", extra=logs.fields(driver=name, socket=socket_path, endpoint=info.endpoint))
    code = _serve_until_signal(server, socket_path, codes)
    if code == 0 and settings.stay_while_driver_serves:
        code = _stay_registered(server, socket_path, driver.path, codes)
    server.stop(_DRAIN_SECONDS)
    log.info("stopped", extra=logs.fields(driver=name, exit_code=code))
    return code


def _serve_until_signal(server: grpc_server.Server, socket_path: Path, codes: signals.ExitCodes) -> int:
    while True:
        try:
            return codes.get(timeout=_SOCKET_CHECK_SECONDS)
        except queue.Empty:
            _restore_socket(server, socket_path)


def _stay_registered(server: grpc_server.Server, socket_path: Path, driver_path: str, codes: signals.ExitCodes) -> int:
    """Serve until the current driver has ended. Its successor at the same path has its own registrar."""
    driver = csi_client.file_id(driver_path)
    log.info("staying registered until the driver has ended", extra=logs.fields(socket=driver_path))
    while driver == csi_client.file_id(driver_path) and csi_client.wait_for_socket(driver_path, _DRIVER_CHECK_SECONDS):
        try:
            return codes.get(timeout=_DRIVER_CHECK_SECONDS)
        except queue.Empty:
            _restore_socket(server, socket_path)
    return 0


def _restore_socket(server: grpc_server.Server, socket_path: Path) -> None:
    try:
        if server.ensure_socket():
            log.warning("registration socket was removed; created again", extra=logs.fields(socket=socket_path))
    except (grpc_server.SocketInUseError, OSError) as error:
        details = logs.fields(socket=socket_path, reason=error)
        log.error("registration socket was removed; creation failed, retrying", extra=details)


if __name__ == "__main__":
    sys.exit(main())
