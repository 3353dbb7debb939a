"""The command `oneagent-csi-provisioner`."""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from oneagent.common import flags, logs, package_client, prometheus
from oneagent.common.addresses import AddressError
from oneagent.common.dynakube import network_defaults
from oneagent.common.dynakube.network_defaults import NetworkDefaults
from oneagent.common.http import client as http_client
from oneagent.common.identifiers import Version
from oneagent.common.kubernetes import errors, list_watch
from oneagent.common.oci import hosts
from oneagent.common.oci.hosts import Registries
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.data_dir import DataDir, UnsafeNameError
from oneagent.csi_driver.linux import process, stop_signals
from oneagent.csi_driver.linux.clock import SteadyClock
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.provisioner import garbage_collector, installer, startup_cleanup, uninstall
from oneagent.csi_driver.provisioner.event_reporter import EventReporter
from oneagent.csi_driver.provisioner.installer import Installer, InstallQueue
from oneagent.csi_driver.provisioner.installer.fetch import Fetcher
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.node_reporter import NodeReporter
from oneagent.csi_driver.provisioner.package_sources import PackageSources
from oneagent.csi_driver.provisioner.package_sources.mirror import Mirror
from oneagent.csi_driver.provisioner.planner import Planner
from oneagent.csi_driver.provisioner.reconciler import Provisioner
from oneagent.csi_driver.provisioner.scrubber import Scrubber, ScrubSettings
from oneagent.csi_driver.provisioner.signature_cache import SignatureCache
from oneagent.csi_driver.provisioner.tenant_poller import TenantPoller
from oneagent.csi_driver.provisioner.unpacker.process import Unpacker
from oneagent.csi_driver.store import AgentStore

log = logging.getLogger(__name__)

MIRROR_TOKEN: Final = Path("/var/run/secrets/oneagent-packages/token")
"""In a projected volume: nothing else gets a token of this audience into a container."""


@dataclass(frozen=True, slots=True)
class Config:
    """The provisioner's flags; `--help` describes each."""

    data_dir: Path
    source: str
    operator_wait_seconds: float
    dynakubes: Path
    namespace: str
    kubeconfig: Path | None
    node_id: str
    pod_name: str
    pod_uid: str
    opentelemetry: bool
    daemonset: str
    gc_seconds: float
    policy: garbage_collector.RetentionPolicy
    jitter_seconds: float
    scrub: ScrubSettings
    unpack_threads: int | None
    mirror: package_client.Endpoint | None
    registries: Registries
    network_defaults: NetworkDefaults
    metrics_address: str
    log_format: logs.Format
    log_level: str


def parse(arguments: list[str] | None = None) -> Config:
    """Parse flags and environment; exit with a message on an invalid value."""
    parser = flags.create_daemon_parser(
        "oneagent-csi-provisioner", "Installs the agent versions that DynaKubes request on this node."
    )
    add = flags.adder(parser)
    add("data-dir", Path("/data"), "directory of agents, views and metadata", parse=flags.absolute_path)
    add(
        "dynakube-source",
        "kubernetes",
        "source of DynaKubes: kubernetes or directory",
        choices=("kubernetes", "directory"),
    )
    add(
        "dynakubes",
        Path("/etc/dynakubes"),
        "directory of YAML files for --dynakube-source=directory",
        parse=flags.absolute_path,
    )
    add(
        "operator-wait",
        dynakube_sources.OPERATOR_WAIT_SECONDS,
        "time for an operator to mark a DynaKube before this node polls the tenant itself, up to twice as long if no "
        "pod waits; 0: poll at once",
        parse=flags.duration,
    )
    add("namespace", "", "namespace of the DynaKubes; the pod's own if empty", env="POD_NAMESPACE")
    add("kubeconfig", "", "kubeconfig file; in-cluster configuration if empty", env="KUBECONFIG")
    add("node-id", "", "name of this node, for its report and Events", env="KUBE_NODE_NAME")
    add("pod-name", "", "name of this pod, which owns the node's report", env="POD_NAME")
    add("pod-uid", "", "UID of this pod, which owns the node's report", env="POD_UID")
    add("daemonset", "", "DaemonSet of this process, to detect an uninstall; no detection if empty")
    add("gc-interval", 300.0, "interval of garbage collection", parse=flags.duration)
    default = garbage_collector.DEFAULT
    add(
        "disk-budget",
        default.budget_bytes,
        "maximum size of the agent store, such as 10Gi; 0: no limit",
        parse=flags.size,
    )
    add("disk-reserve", default.reserve_bytes, "disk space to keep free", parse=flags.size)
    add(
        "gc-keep-unused",
        default.keep_unused_seconds,
        "retention of unused versions; 0: delete at once",
        parse=flags.duration,
    )
    add("log-retention", default.keep_logs_seconds, "retention of logs of deleted pods", parse=flags.duration)
    add("log-budget", default.keep_logs_bytes, "maximum size of logs of deleted pods; 0: no limit", parse=flags.size)
    add(
        "download-jitter",
        installer.JITTER_SECONDS,
        "maximum random delay before a download, so that nodes do not all download at once; none while a pod waits",
        parse=flags.duration,
    )
    default_scrub = ScrubSettings()
    add(
        "scrub-rate",
        default_scrub.bytes_per_second,
        "read limit of the integrity scrub in bytes per second; 0: no scrub",
        parse=flags.size,
    )
    add("scrub-interval", default_scrub.interval_seconds, "interval between scrubs of a version", parse=flags.duration)
    add("unpack-threads", 0, "number of threads that unpack a package; 0: one per core", parse=flags.count)
    add(
        "package-mirror",
        "",
        "URL of the operator's package server, https://host:port, tried before the tenant; none if empty",
    )
    add("package-mirror-ca", "", "file of CA certificates for the package mirror, added to the system's")
    add("package-mirror-token", MIRROR_TOKEN, "token file for the package mirror", parse=flags.absolute_path)
    hosts.add_flags(add)
    network_defaults.add_flags(add)
    add("metrics-address", "", "host:port of Prometheus metrics, such as :8090; none if empty", parse=flags.address)
    add(
        "opentelemetry",
        False,
        "watch OpenTelemetryInjections; requires their CRD. Without effect with --dynakube-source=directory",
    )
    flags.add_logging(add)
    given = parser.parse_args(arguments)
    return Config(
        data_dir=given.data_dir,
        source=given.dynakube_source,
        operator_wait_seconds=given.operator_wait,
        dynakubes=given.dynakubes,
        namespace=given.namespace,
        kubeconfig=Path(given.kubeconfig) if given.kubeconfig else None,
        node_id=given.node_id,
        pod_name=given.pod_name,
        pod_uid=given.pod_uid,
        daemonset=given.daemonset,
        opentelemetry=given.opentelemetry,
        gc_seconds=given.gc_interval,
        policy=garbage_collector.RetentionPolicy(
            budget_bytes=given.disk_budget,
            reserve_bytes=given.disk_reserve,
            keep_unused_seconds=given.gc_keep_unused,
            keep_logs_seconds=given.log_retention,
            keep_logs_bytes=given.log_budget,
        ),
        jitter_seconds=given.download_jitter,
        scrub=ScrubSettings(given.scrub_rate, given.scrub_interval),
        unpack_threads=given.unpack_threads or None,
        mirror=_mirror(parser, given),
        registries=hosts.from_flags(given),
        network_defaults=network_defaults.from_flags(given),
        metrics_address=given.metrics_address,
        log_format=given.log_format,
        log_level=given.log_level,
    )


def _mirror(parser: argparse.ArgumentParser, given: argparse.Namespace) -> package_client.Endpoint | None:
    if not given.package_mirror:
        return None
    ca_file = Path(given.package_mirror_ca) if given.package_mirror_ca else None
    try:
        return package_client.Endpoint(given.package_mirror, given.package_mirror_token, ca_file)
    except http_client.InvalidSettingsError as error:
        parser.error(f"--package-mirror: {error}")


def create_source(config: Config) -> dynakube_sources.DynaKubeSource:
    """Create the source. Only `kubernetes` loads a Kubernetes client."""
    if config.source == "directory":
        from oneagent.csi_driver.dynakube_sources.directory import DirectorySource

        return DirectorySource(config.dynakubes)
    from oneagent.csi_driver.dynakube_sources import api_server

    periods = replace(list_watch.NODE_PERIODS, relist=list_watch.NODE_PERIODS.relist if config.jitter_seconds else 0.0)
    return api_server.KubernetesSource(
        namespace=config.namespace,
        kubeconfig=config.kubeconfig,
        node=config.node_id,
        pod=api_server.own_pod(config.pod_name, config.pod_uid),
        periods=periods,
        operator_wait_seconds=config.operator_wait_seconds,
        injections=config.opentelemetry,
    )


def build(
    config: Config, source: dynakube_sources.DynaKubeSource, failpoint: Callable[[str], None] = lambda _name: None
) -> tuple[Provisioner, ProvisionerMetrics]:
    """Construct the provisioner and everything that it uses, each part after those that it needs."""
    data = DataDir(config.data_dir)
    try:
        data.create()
        startup_cleanup.clean_tmp(data)
    except OSError as error:
        # Versions that are in the store can be mounted and reported all the same.
        log.error("data directory not writable", extra=logs.fields(path=error.filename, reason=error.strerror))
    metrics = ProvisionerMetrics()
    metrics.watch_silence.set_function(source.silent_seconds)
    metadata = Database(data.database, data.database_lock)
    metadata.on_busy = metrics.database.observe
    clock = SteadyClock(data.clock)
    clock.save()
    state = ProvisionerState(metadata, data.dynakubes, clock.now)
    state.load()
    store = AgentStore(data)
    startup_cleanup.reconcile(data, store, state)
    signatures = SignatureCache(data, {*store.versions(), *(row.version for row in state.desired.values())})
    changed = threading.Event()
    poller = TenantPoller(
        source,
        config.registries,
        signatures,
        changed.set,
        operator_wait_seconds=source.operator_wait_seconds,
        jitter_seconds=config.jitter_seconds,
    )
    planner = Planner(data, store, state, poller, signatures)
    queue = InstallQueue()
    collector = garbage_collector.GarbageCollector(
        data,
        store,
        state,
        config.policy,
        metrics,
        installing=queue.versions,
        dynakube_names=planner.dynakube_names,
        decision_lock=planner.decision_lock,
        now=clock.now,
        failpoint=failpoint,
    )
    mirror = Mirror(config.mirror, metrics) if config.mirror else None
    sources = PackageSources(source, config.registries, mirror)
    fetcher = Fetcher(data, state, collector, sources, metrics, changed.set, failpoint)
    installer = Installer(
        data,
        store,
        state,
        queue,
        fetcher,
        collector,
        planner,
        metrics,
        changed.set,
        unpacker=Unpacker(threads=config.unpack_threads),
        jitter_seconds=config.jitter_seconds,
        failpoint=failpoint,
    )
    node_reporter = NodeReporter(source, config.jitter_seconds)

    def on_corrupt(version: Version, message: str) -> None:
        node_reporter.add_corruption(version, message)
        changed.set()

    scrubber = Scrubber(
        data,
        store,
        state,
        metrics,
        config.scrub,
        decision_lock=planner.decision_lock,
        on_corrupt=on_corrupt,
        now=clock.now,
        failpoint=failpoint,
    )
    provisioner = Provisioner(
        source,
        data,
        state,
        poller,
        planner,
        queue,
        installer,
        collector,
        scrubber,
        EventReporter(source, state),
        node_reporter,
        metrics,
        clock,
        changed=changed,
        gc_seconds=config.gc_seconds,
        network_defaults=config.network_defaults,
        failpoint=failpoint,
    )
    return provisioner, metrics


def run(config: Config, failpoint: Callable[[str], None] = lambda _name: None) -> int:
    """Run until SIGTERM or SIGINT."""
    process.share_heap()
    logs.setup(config.log_format, config.log_level)
    stop = threading.Event()
    provisioner: Provisioner | None = None

    def on_stop() -> None:
        stop.set()
        if provisioner is not None:
            provisioner.wake()

    # First: a signal that is not awaited ends the process, and does nothing to process 1 of a container.
    stop_signals.call_on_stop(on_stop)
    try:
        source = create_source(config)
    except errors.ApiError as error:
        raise SystemExit(f"--dynakube-source={config.source}: {error}") from error
    with process.exclusive_lock(config.data_dir / "provisioner.lock"):
        try:
            provisioner, metrics = build(config, source, failpoint)
        except OSError as error:
            raise SystemExit(f"--data-dir={config.data_dir}: {error.strerror} ({error.filename})") from error

        prometheus.serve(config.metrics_address, metrics.registry)
        process.trim_memory()
        log.info("provisioner started", extra=logs.fields(source=config.source, data=config.data_dir))
        uninstall_thread = _watch_for_uninstall(config, source, stop)
        with process.ending_on_thread_errors():
            provisioner.run(stop)
    if uninstall_thread is not None:
        uninstall_thread.join()
    log.info("provisioner stopped")
    return 0


def _watch_for_uninstall(
    config: Config, source: dynakube_sources.DynaKubeSource, stop: threading.Event
) -> threading.Thread | None:
    """Start the thread that detects an uninstall after `stop`, if the source can read DaemonSets."""
    if not (config.daemonset and isinstance(source, uninstall.Cluster)):
        return None
    arguments = (source, config.daemonset, DataDir(config.data_dir), stop)
    uninstall_thread = threading.Thread(target=uninstall.watch, args=arguments, name="uninstall", daemon=True)
    uninstall_thread.start()
    return uninstall_thread


def main() -> int:
    """The command `oneagent-csi-provisioner`."""
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
