"""`csi-node-driver-registrar`: tells kubelet that there is a CSI driver on this node, and where.

Takes the flags of the Go program of that name and does its work, with these differences, each on purpose:

- GetInfo asks the driver's Probe first and answers UNAVAILABLE for a driver that does not answer, so kubelet
  never registers a dead driver, and `/healthz`, which asks GetInfo, tells the truth about it.
- The registration socket is made again when its file was removed. A successor's socket is left alone.
- A refused registration is answered before the program ends with 1, and no stale socket stays behind.
- With `--stay-while-driver-serves` SIGTERM ends it only after the driver: kubelet calls no driver that is not
  registered, and one that stays after an uninstall, until its last volume is gone, has to be called.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from oneagent.common import logs
from oneagent.common.proto.pluginregistration.v1 import pluginregistration_pb2 as registration
from oneagent.sidecars import csi_client, go_flags, http_server, signals
from oneagent.sidecars.grpc import client
from oneagent.sidecars.grpc import server as grpc_server
from oneagent.sidecars.grpc.protocol import RpcError, StatusCode

log = logging.getLogger(__name__)

GET_INFO: Final = "/pluginregistration.Registration/GetInfo"
NOTIFY: Final = "/pluginregistration.Registration/NotifyRegistrationStatus"

_WAIT_FOR_DRIVER_SECONDS: Final = 30.0
_LOOK_FOR_SOCKET_SECONDS: Final = 1.0
_LOOK_FOR_DRIVER_SECONDS: Final = 0.5
_DRAIN_SECONDS: Final = 5.0


@dataclasses.dataclass(frozen=True)
class RegistrarSettings:
    """What the flags ask for."""

    csi_path: str
    """The driver's socket as this container sees it."""
    kubelet_registration_path: str
    """The driver's socket as kubelet sees it: a path on the host."""
    plugin_registration_path: Path
    """Kubelet's `plugins_registry` folder as this container sees it."""
    timeout_seconds: float
    """For each call to the driver."""
    http_address: str
    """Where `/healthz` is served; empty for nowhere."""
    stay_while_driver_serves: bool
    """After a first signal, until the driver ends or a second one comes."""
    log_format: logs.Format


def read_settings(words: Sequence[str]) -> RegistrarSettings | None:
    """The settings of a command line; `None` for the probe mode, which has nothing to do."""
    flags = go_flags.Flags("csi-node-driver-registrar", "Registers a CSI driver with this node's kubelet.")
    flags.add_argument("--csi-address", default="/run/csi/socket", help="the driver's socket, in this container")
    flags.add_argument("--kubelet-registration-path", default="", help="the driver's socket, on the host (required)")
    flags.add_argument("--plugin-registration-path", default="/registration", help="kubelet's plugins_registry")
    flags.add_argument("--timeout", type=go_flags.seconds, default=1.0, help="for a call to the driver (default 1s)")
    flags.add_argument("--http-endpoint", default="", help="host:port of /healthz (default: none)")
    flags.add_argument("--health-port", type=go_flags.port, default=0, help="deprecated: use --http-endpoint")
    flags.add_argument("--mode", default="registration", help="deprecated: kubelet-registration-probe exits with 0")
    flags.add_argument("--connection-timeout", help="deprecated, without effect")
    flags.switch("stay-while-driver-serves", "on SIGTERM stay registered until the driver has ended")
    flags.switch("enable-pprof", "without effect")
    options = flags.read(words)
    if not options.kubelet_registration_path:
        flags.refuse("--kubelet-registration-path is required: the driver's socket as kubelet sees it")
    if options.mode == "kubelet-registration-probe":
        return None
    if options.mode != "registration":
        flags.refuse(f"--mode={options.mode} is neither registration nor kubelet-registration-probe")
    if options.http_endpoint and options.health_port:
        flags.refuse("--http-endpoint and --health-port exclude each other; use --http-endpoint")
    try:
        csi_path = csi_client.path_of(options.csi_address)
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
    """The two calls that kubelet makes."""

    def __init__(self, info: registration.PluginInfo, driver: csi_client.Driver, codes: signals.ExitCodes) -> None:
        self._info = info
        self._driver = driver
        self._codes = codes

    def handlers(self) -> dict[str, grpc_server.Handler]:
        return {GET_INFO: self.get_info, NOTIFY: self.notify}

    def get_info(self, _request: bytes) -> bytes:
        """What kubelet has to know, while the driver answers."""
        try:
            # Not ready is alive: whether the driver can serve kubelet's next call is for that call to tell.
            self._driver.ready()
        except RpcError as error:
            if error.status is not StatusCode.UNIMPLEMENTED:
                raise RpcError(StatusCode.UNAVAILABLE, f"the CSI driver does not answer: {error}") from error
        return self._info.SerializeToString()

    def notify(self, request: bytes) -> bytes:
        """Kubelet's verdict. A refusal ends the program; the answer goes out before, as `stop` drains."""
        try:
            status = registration.RegistrationStatus.FromString(request)
        except DecodeError as error:
            raise RpcError(StatusCode.INVALID_ARGUMENT, "this is no RegistrationStatus") from error
        if status.plugin_registered:
            log.info("kubelet has registered the driver", extra=logs.facts(driver=self._info.name))
        else:
            facts = logs.facts(driver=self._info.name, reason=status.error)
            log.error("kubelet has refused the driver; ending so that it is tried anew", extra=facts)
            self._codes.put(1)
        return registration.RegistrationStatusResponse().SerializeToString()


def check_health(socket_path: Path, name: str, timeout_seconds: float) -> http_server.Answer:
    """`/healthz`: whether kubelet could register the driver now."""
    if not socket_path.exists():
        return http_server.Answer(404, "registration socket does not exist")
    try:
        answer = client.call(str(socket_path), GET_INFO, b"", timeout_seconds)
        answered = registration.PluginInfo.FromString(answer).name
    except (RpcError, DecodeError) as error:
        return http_server.Answer(500, str(error))
    if answered != name:
        return http_server.Answer(500, f"the registration socket answers for {answered!r}, not for {name!r}")
    return http_server.Answer(200, "ok")


def main() -> int:
    settings = read_settings(sys.argv[1:])
    if settings is None:
        return 0
    logs.setup(settings.log_format, "info")
    codes = signals.catch()
    driver = csi_client.Driver(settings.csi_path, settings.timeout_seconds)
    name = _learn_name(driver)
    if not name:
        return 1
    return _register(settings, driver, name, codes)


def _learn_name(driver: csi_client.Driver) -> str:
    log.info("connecting to the driver", extra=logs.facts(socket=driver.path))
    if not csi_client.wait(driver.path, _WAIT_FOR_DRIVER_SECONDS):
        facts = logs.facts(socket=driver.path, seconds=_WAIT_FOR_DRIVER_SECONDS)
        log.error("no driver; check that it runs and that --csi-address names its socket", extra=facts)
        return ""
    try:
        name = driver.name()
    except RpcError as error:
        log.error("the driver did not say its name", extra=logs.facts(socket=driver.path, reason=error))
        return ""
    if not name or "/" in name:
        log.error("the driver's name is empty or no file's name", extra=logs.facts(driver=name))
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
        server.keep()
        if settings.http_address:
            # GetInfo needs up to the driver's timeout by itself.
            timeout = settings.timeout_seconds + 1
            page = {"/healthz": lambda: check_health(socket_path, name, timeout)}
            log.info("serving /healthz", extra=logs.facts(address=http_server.serve(settings.http_address, page)))
    except (grpc_server.SocketInUseError, http_server.AddressError, OSError) as error:
        log.error("cannot serve", extra=logs.facts(socket=socket_path, reason=error))
        server.stop(0)
        return 1
    log.info("waiting for kubelet", extra=logs.facts(driver=name, socket=socket_path, endpoint=info.endpoint))
    code = _serve_until_told(server, socket_path, codes)
    if code == 0 and settings.stay_while_driver_serves:
        code = _stay(server, socket_path, driver.path, codes)
    server.stop(_DRAIN_SECONDS)
    log.info("stopped", extra=logs.facts(driver=name, exit_code=code))
    return code


def _serve_until_told(server: grpc_server.Server, socket_path: Path, codes: signals.ExitCodes) -> int:
    while True:
        try:
            return codes.get(timeout=_LOOK_FOR_SOCKET_SECONDS)
        except queue.Empty:
            _mend(server, socket_path)


def _stay(server: grpc_server.Server, socket_path: Path, driver_path: str, codes: signals.ExitCodes) -> int:
    """Serve until the driver of this moment has ended. Its successor at the same path has a registrar of its own."""
    driver = csi_client.file_id(driver_path)
    log.info("staying registered until the driver has ended", extra=logs.facts(socket=driver_path))
    while driver == csi_client.file_id(driver_path) and csi_client.wait(driver_path, _LOOK_FOR_DRIVER_SECONDS):
        try:
            return codes.get(timeout=_LOOK_FOR_DRIVER_SECONDS)
        except queue.Empty:
            _mend(server, socket_path)
    return 0


def _mend(server: grpc_server.Server, socket_path: Path) -> None:
    try:
        if server.keep():
            log.warning("the registration socket had gone; made anew", extra=logs.facts(socket=socket_path))
    except (grpc_server.SocketInUseError, OSError) as error:
        facts = logs.facts(socket=socket_path, reason=error)
        log.error("the registration socket has gone and cannot be made anew yet", extra=facts)


if __name__ == "__main__":
    sys.exit(main())
