"""The node server: answers kubelet over the CSI socket.

It needs mount rights and the data directory; it has no network, no Kubernetes client and no tokens. A start is safe
because of its order: lock on the data directory, database, reconcile, and only then the socket. So every client that
can connect gets an answer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from oneagent.common import distribution, flags, logs, prometheus
from oneagent.common.addresses import AddressError
from oneagent.common.proto.csi.v1 import csi_pb2_grpc
from oneagent.csi_driver.data_dir import DataDir, UnsafeNameError
from oneagent.csi_driver.linux import mount_table, process, stop_signals
from oneagent.csi_driver.linux.clock import SteadyClock
from oneagent.csi_driver.linux.stop_signals import STOP_SIGNALS
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.desired_versions import DesiredStateReader
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRepository
from oneagent.csi_driver.server import interceptor, metrics, overlay, publish, request_decoding, shutdown
from oneagent.csi_driver.server.identity_service import IdentityService
from oneagent.csi_driver.server.node_service import NodeService
from oneagent.csi_driver.server.startup_reconcile import Reconciler
from oneagent.csi_driver.server.unpublish import Unpublisher
from oneagent.csi_driver.store import AgentStore

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 300.0
_WORKERS: Final = 512
_DRAIN_POLL_SECONDS: Final = 0.05
_IDLE_SECONDS: Final = 0.25
"""Time for a call that gRPC has accepted to reach its handler."""


@dataclass(frozen=True, slots=True)
class Config:
    """The server's flags; `--help` describes each."""

    endpoint: str
    node_id: str
    namespace: str
    data_dir: Path
    target_root: Path
    publish_wait_seconds: float
    drain_seconds: float
    uninstall_wait_seconds: float
    keep_logs: bool
    metrics_address: str
    log_format: logs.Format
    log_level: str


def parse(arguments: list[str] | None = None) -> Config:
    """Read flags and environment; a bad value ends the process with a message."""
    parser = flags.create_daemon_parser(
        "oneagent-csi-server", "Publishes agent volumes for kubelet through a CSI socket."
    )
    add = flags.adder(parser)
    add("endpoint", "unix:///csi/csi.sock", "address of the CSI socket", env="CSI_ENDPOINT")
    add("node-id", "", "name of this node", env="KUBE_NODE_NAME")
    add("namespace", "", "namespace whose pods may mount the host agent's directory; all if empty", env="POD_NAMESPACE")
    add("data-dir", Path("/data"), "directory of agents, views and metadata", parse=flags.absolute_path)
    add(
        "target-root",
        Path("/var/lib/kubelet"),
        "kubelet's root directory, which contains all target paths",
        parse=flags.absolute_path,
    )
    add(
        "publish-wait",
        60.0,
        "maximum wait of a publish call for its version, then the attempt fails; less than kubelet's 2m",
        parse=flags.duration,
    )
    add("drain", 10.0, "time for calls in flight to end after SIGTERM", parse=flags.duration)
    add(
        "uninstall-wait",
        0.0,
        "maximum wait after SIGTERM for the provisioner to report an uninstall, if there are volumes; after a report "
        "the server runs until they are unpublished",
        parse=flags.duration,
    )
    add(
        "keep-logs",
        False,
        "keep files that pods wrote into their views; the provisioner's log retention applies",
    )
    add(
        "metrics-address",
        "",
        "host:port of Prometheus metrics, such as :8080; none if empty",
        parse=flags.address,
    )
    flags.add_logging(add)
    given = parser.parse_args(arguments)
    if not given.node_id:
        parser.error("--node-id is missing: set it to this node's name (or set KUBE_NODE_NAME)")
    if not given.target_root.is_dir():
        parser.error(f"--target-root {given.target_root} is not a directory")
    return Config(
        endpoint=given.endpoint,
        node_id=given.node_id,
        namespace=given.namespace,
        data_dir=given.data_dir,
        target_root=given.target_root,
        publish_wait_seconds=given.publish_wait,
        drain_seconds=given.drain,
        uninstall_wait_seconds=given.uninstall_wait,
        keep_logs=given.keep_logs,
        metrics_address=given.metrics_address,
        log_format=given.log_format,
        log_level=given.log_level,
    )


def socket_path(endpoint: str) -> Path:
    """Return the path of `unix:///path`, `unix:/path`, `unix://path` or a bare path."""
    path = endpoint.removeprefix("unix:")
    path = path.removeprefix("//") if path.startswith("///") else path
    if path.startswith("//"):
        path = path[1:]
    return Path(path).absolute()


class Server:
    """The components of the server's process, wired together."""

    def __init__(self, config: Config, failpoint: Callable[[str], None] = lambda _name: None) -> None:
        self._config = config
        self._data = DataDir(config.data_dir)
        self.metrics = metrics.ServerMetrics()
        data = self._data
        try:
            data.create()
        except OSError as error:
            # Pods must be able to end, and others to start with an empty view.
            log.error("data directory not writable", extra=logs.fields(path=error.filename, reason=error.strerror))
        self._database = Database(data.database, data.database_lock)
        self._database.on_busy = self.metrics.database.observe
        self._clock = SteadyClock(data.clock)
        self._clock.save()
        self.volumes = VolumeRepository(self._database, self._clock.now)
        self._database.on_new_file = self.volumes.rewrite
        user_namespace = overlay.in_user_namespace(Path("/proc/self/uid_map").read_text())
        mounts = overlay.OverlayMounter(data, config.target_root, user_namespace=user_namespace)
        self._desired = DesiredStateReader(self._database, data.dynakubes)
        self.publisher = publish.Publisher(
            publish.PublishSettings(
                node_id=config.node_id,
                publish_wait_seconds=config.publish_wait_seconds,
                max_waiting=_WORKERS - 112,
                keep_logs=config.keep_logs,
                host_namespace=config.namespace,
            ),
            data,
            AgentStore(data),
            mounts,
            self.volumes,
            self._desired,
            now=self._clock.now,
            failpoint=failpoint,
        )
        self._reconciler = Reconciler(data, self.volumes, mounts, self.publisher.calls, self._clock.now)
        self._node = NodeService(
            config.node_id,
            str(config.target_root),
            self.publisher,
            Unpublisher(self.publisher, data, mounts, self.volumes, failpoint=failpoint),
            data,
            self.volumes,
            mounts,
            self.metrics,
        )
        self._calls = interceptor.CallInterceptor(self.metrics)
        self._grpc: grpc.Server | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Reconcile, then serve."""
        self.volumes.load()
        self.volumes.start()
        self._reconciler.reconcile()
        self.publisher.view_mounter.dir_pool.start()
        self._warn_if_one_mount()
        self._register_gauges()
        prometheus.serve(self._config.metrics_address, self.metrics.registry)
        path = socket_path(self._config.endpoint)
        remove_stale_socket(path)
        server = grpc.server(
            ThreadPoolExecutor(_WORKERS, thread_name_prefix="call"),
            interceptors=[self._calls],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", request_decoding.MAX_MESSAGE_BYTES),
            ],
        )
        identity = IdentityService(distribution.version(), self._data)
        csi_pb2_grpc.add_IdentityServicer_to_server(identity, server)
        csi_pb2_grpc.add_NodeServicer_to_server(self._node, server)
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        server.add_insecure_port(f"unix:{path}")
        server.start()
        self._grpc = server
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()
        process.trim_memory()
        log.info("serving", extra=logs.fields(socket=path, node=self._config.node_id))

    def count_volumes(self) -> int:
        """Return how many volumes still need the driver; at least one while a call is in flight."""
        in_flight = self.publisher.calls.busy  # Read first: a call that ends meanwhile has left its volume.
        return self._reconciler.count_remaining() or int(in_flight)

    def stop(self) -> None:
        """Drain: accept no calls, answer waiting ones "retry", let the others end. Mounted views stay."""
        self._stopped.set()
        self.publisher.calls.cancel_all()
        if self._grpc is not None:
            self._drain(self._grpc)
            self.publisher.calls.cancel_all()
        self.volumes.close()
        self._database.close()
        with contextlib.suppress(FileNotFoundError):
            socket_path(self._config.endpoint).unlink()
        log.info("stopped")

    def _drain(self, server: grpc.Server) -> None:
        """Return once all calls are answered, or their time is over.

        gRPC itself waits until each client has closed its connection, too, and a client that hangs never does.
        """
        drained, idle_since = server.stop(self._config.drain_seconds), time.monotonic()
        while not drained.wait(_DRAIN_POLL_SECONDS):
            if self._calls.is_busy:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _IDLE_SECONDS:
                server.stop(None)  # It closes the connections.

    def _warn_if_one_mount(self) -> None:
        """Warn if data directory and target root lie on one mount.

        For each layer, mount(2) visits everything that is mounted on the layer's own mount: 0.3 ms with few views,
        4.5 ms with 5,000 (Linux 6.18), unless the views are mounted on another one.
        """
        mounts = mount_table.read()
        data, targets = os.path.realpath(self._config.data_dir), os.path.realpath(self._config.target_root)
        if mount_table.mount_containing(mounts, data) is mount_table.mount_containing(mounts, targets):
            log.warning(
                "data directory and target root lie on one mount, so each mounted view makes a publish slower; "
                "make the data directory a mount of its own (in Kubernetes: a hostPath volume)",
                extra=logs.fields(data=data, targets=targets),
            )

    def _register_gauges(self) -> None:
        self.metrics.waiting.set_function(lambda: self.publisher.version_waiter.waiting)
        self.metrics.unwritten.set_function(lambda: self.volumes.unwritten)
        for state in VolumeState:
            self.metrics.volumes.labels(state).set_function(functools.partial(self._count, state))

        self.metrics.coverage.start(self.volumes.all, self._desired.names)

    def _count(self, state: VolumeState) -> int:
        return sum(record.state == state for record in self.volumes.all())

    def _sweep(self) -> None:
        while not self._stopped.wait(SWEEP_SECONDS):
            self._clock.save()
            try:
                if dropped := self._reconciler.sweep():
                    log.info("volumes of deleted pods dropped", extra=logs.fields(volumes=dropped))
            except Exception:
                log.exception("sweep failed")


def remove_stale_socket(path: Path) -> None:
    """Remove the socket of a dead server; `SystemExit` if the path is no socket or its server is alive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SystemExit(f"--endpoint {path}: exists and is not a socket; remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise SystemExit(f"--endpoint {path}: another server answers on this socket")


def run(config: Config, failpoint: Callable[[str], None] = lambda _name: None) -> int:
    """Serve until SIGTERM or SIGINT; after an uninstall until the last volume is gone (see `shutdown`)."""
    logs.setup(config.log_format, config.log_level)
    stop_signals.block()
    data = DataDir(config.data_dir)
    # Before waiting for the lock: a server that stays after an uninstall then ends and releases it.
    with contextlib.suppress(OSError):  # The disk may be read-only.
        data.uninstall_marker.unlink(missing_ok=True)
    with process.exclusive_lock(data.server_lock):
        with process.ending_on_thread_errors():
            server = Server(config, failpoint)
            server.start()
            signal.sigwait(STOP_SIGNALS)
            wait_seconds = config.uninstall_wait_seconds
            shutdown.wait_until_drained(server.count_volumes, data.uninstall_marker, wait_seconds, STOP_SIGNALS)
        server.stop()
    return 0


def main() -> int:
    """The command `oneagent-csi-server`."""
    return flags.run_daemon(_run)


def _run() -> int:
    try:
        return run(parse())
    except UnsafeNameError as error:
        raise SystemExit(f"--data-dir: {error}") from error
    except AddressError as error:
        raise SystemExit(f"--metrics-address: {error}") from error


if __name__ == "__main__":
    raise SystemExit(main())
