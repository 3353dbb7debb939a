"""The command `oneagent-csi-provisioner`."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oneagent.common import flags, logs, package_client, prometheus
from oneagent.common.http import client as http_client
from oneagent.common.kubernetes import errors
from oneagent.common.oci import hosts
from oneagent.common.oci.hosts import Registries
from oneagent.csi_driver import dynakube_sources
from oneagent.csi_driver.data_dir import DataDir, UnsafeNameError
from oneagent.csi_driver.linux import process
from oneagent.csi_driver.metadata.database import Database
from oneagent.csi_driver.metadata.provisioner_state import ProvisionerState
from oneagent.csi_driver.provisioner import garbage_collector, scrubber, startup_cleanup, uninstall
from oneagent.csi_driver.provisioner.installer import Installer
from oneagent.csi_driver.provisioner.metrics import ProvisionerMetrics
from oneagent.csi_driver.provisioner.package_sources.mirror import Mirror
from oneagent.csi_driver.provisioner.reconciler import Provisioner
from oneagent.csi_driver.provisioner.scrubber import Scrubber
from oneagent.csi_driver.provisioner.signature_cache import SignatureCache
from oneagent.csi_driver.store import AgentStore

log = logging.getLogger(__name__)

MIRROR_TOKEN: Final = Path("/var/run/secrets/oneagent-packages/token")
"""Where a projected volume is expected: nothing else gets a token of this audience into a container."""


@dataclass(frozen=True, slots=True)
class Config:
    """The provisioner's flags; `--help` tells what each is."""

    data_dir: Path
    source: str
    dynakubes: Path
    namespace: str
    kubeconfig: Path | None
    node_id: str
    daemonset: str
    collect_seconds: float
    policy: garbage_collector.Policy
    spread_seconds: float
    checks: scrubber.ScrubSettings
    unpack_threads: int | None
    mirror: package_client.Endpoint | None
    registries: Registries
    metrics_address: str
    log_format: logs.Format
    log_level: str


def parse(arguments: list[str] | None = None) -> Config:
    """The configuration from flags and environment; ends the process with a clear message on a bad value."""
    parser = flags.create_parser(
        "oneagent-csi-provisioner", "Keeps the agent versions that DynaKubes want on this node."
    )
    add = flags.adder(parser)
    add("data-dir", Path("/data"), "folder for agents, views and metadata", parse=flags.absolute_path)
    add(
        "dynakube-source",
        "kubernetes",
        "where DynaKubes come from: kubernetes or directory",
        choices=("kubernetes", "directory"),
    )
    add(
        "dynakubes",
        Path("/etc/dynakubes"),
        "with --dynakube-source=directory: the folder of YAML files",
        parse=flags.absolute_path,
    )
    add("namespace", "", "namespace of the DynaKubes; the own one if empty", env="POD_NAMESPACE")
    add("kubeconfig", "", "kubeconfig file; in-cluster configuration if empty", env="KUBECONFIG")
    add("node-id", "", "this node's name, for Events", env="KUBE_NODE_NAME")
    add("daemonset", "", "the DaemonSet that this process runs in, so that the server can be told of an uninstall")
    add("gc-interval", 300.0, "time between runs of the garbage collector", parse=flags.duration)
    usual = garbage_collector.DEFAULT
    add("disk-budget", usual.budget_bytes, "most bytes for agents, e.g. 10Gi; 0 for no limit", parse=flags.size)
    add("disk-reserve", usual.reserve_bytes, "free bytes of the disk that stay free", parse=flags.size)
    add(
        "gc-keep-unused", usual.keep_unused_seconds, "how long a version that nobody uses is kept", parse=flags.duration
    )
    add("log-retention", usual.keep_logs_seconds, "how long kept logs of pods stay", parse=flags.duration)
    add("log-budget", usual.keep_logs_bytes, "most bytes of kept logs; 0 for no limit", parse=flags.size)
    add(
        "download-jitter",
        60.0,
        "a download begins some time within this, another on each node; at once if a pod waits for it",
        parse=flags.duration,
    )
    usual_pace = scrubber.ScrubSettings()
    add(
        "scrub-rate",
        usual_pace.bytes_per_second,
        "most bytes a second to read versions with, to see whether they are whole; 0 for no checks",
        parse=flags.size,
    )
    add("scrub-interval", usual_pace.every_seconds, "time between checks of a version", parse=flags.duration)
    add("unpack-threads", 0, "threads that unpack a package; 0 for one a core", parse=flags.count)
    add("package-mirror", "", "the operator's package endpoint, https://host:port, asked before the tenant")
    add("package-mirror-ca", "", "file of certificates to trust there, besides the system's")
    add("package-mirror-token", MIRROR_TOKEN, "file of the token to show there", parse=flags.absolute_path)
    hosts.add_flags(add)
    add("metrics-address", "", "host:port for Prometheus metrics, e.g. :8090; none if empty", parse=flags.address)
    flags.add_logging(add)
    given = parser.parse_args(arguments)
    return Config(
        data_dir=given.data_dir,
        source=given.dynakube_source,
        dynakubes=given.dynakubes,
        namespace=given.namespace,
        kubeconfig=Path(given.kubeconfig) if given.kubeconfig else None,
        node_id=given.node_id,
        daemonset=given.daemonset,
        collect_seconds=given.gc_interval,
        policy=garbage_collector.Policy(
            budget_bytes=given.disk_budget,
            reserve_bytes=given.disk_reserve,
            keep_unused_seconds=given.gc_keep_unused,
            keep_logs_seconds=given.log_retention,
            keep_logs_bytes=given.log_budget,
        ),
        spread_seconds=given.download_jitter,
        checks=scrubber.ScrubSettings(given.scrub_rate, given.scrub_interval),
        unpack_threads=given.unpack_threads or None,
        mirror=_mirror(parser, given),
        registries=hosts.from_flags(given),
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


def make_source(config: Config) -> dynakube_sources.DynaKubeSource:
    """The source that the flags name. Only this decides whether a Kubernetes client is loaded."""
    if config.source == "directory":
        from oneagent.csi_driver.dynakube_sources.directory import FolderSource

        return FolderSource(config.dynakubes)
    from oneagent.csi_driver.dynakube_sources.api_server import KubernetesSource

    return KubernetesSource(namespace=config.namespace, kubeconfig=config.kubeconfig, node=config.node_id)


def build(
    config: Config, source: dynakube_sources.DynaKubeSource, failpoint: Callable[[str], None] = lambda _name: None
) -> tuple[Provisioner, ProvisionerMetrics]:
    """Everything that runs in the provisioner's process, put together."""
    folder = DataDir(config.data_dir)
    folder.create()
    startup_cleanup.tidy(folder)
    counted = ProvisionerMetrics()
    metadata = Database(folder.database, folder.database_lock)
    metadata.on_busy = counted.database.observe
    records = ProvisionerState(metadata, folder.dynakubes)
    records.load()
    store = AgentStore(folder)
    startup_cleanup.reconcile(folder, store, records)
    provisioner = Provisioner(
        source,
        folder,
        store,
        records,
        counted,
        registries=config.registries,
        approved=SignatureCache(folder, {*store.versions(), *(row.version for row in records.wanted.values())}),
        collect_seconds=config.collect_seconds,
        failpoint=failpoint,
    )
    collector = garbage_collector.GarbageCollector(
        folder,
        store,
        records,
        config.policy,
        counted,
        installing=lambda: provisioner.installer.busy,
        known=provisioner.known,
        deciding=provisioner.deciding,
        failpoint=failpoint,
    )
    provisioner.collector = collector
    provisioner.installer = Installer(
        folder,
        store,
        records,
        collector,
        counted,
        provisioner.wake,
        threads=config.unpack_threads,
        mirror=Mirror(config.mirror, counted) if config.mirror else None,
        spread_seconds=config.spread_seconds,
        failpoint=failpoint,
    )
    provisioner.checks = Scrubber(
        folder,
        store,
        records,
        counted,
        config.checks,
        deciding=provisioner.deciding,
        damaged=provisioner.damaged,
        failpoint=failpoint,
    )
    return provisioner, counted


def run(config: Config, failpoint: Callable[[str], None] = lambda _name: None) -> int:
    """Work until SIGTERM or SIGINT."""
    logs.setup(config.log_format, config.log_level)
    stop = threading.Event()
    try:
        source = make_source(config)
    except errors.ApiError as error:
        raise SystemExit(f"--dynakube-source={config.source}: {error}") from error
    with process.exclusive_lock(config.data_dir / "provisioner.lock"):
        provisioner, counted = build(config, source, failpoint)

        def end(*_: object) -> None:
            stop.set()
            provisioner.wake()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        prometheus.serve(config.metrics_address, counted.registry)
        process.trim_memory()
        log.info("provisioning", extra=logs.facts(source=config.source, data=config.data_dir))
        asking = _watch_for_uninstall(config, source, stop)
        provisioner.run(stop)
    if asking is not None:
        asking.join()
    log.info("stopped")
    return 0


def _watch_for_uninstall(
    config: Config, source: dynakube_sources.DynaKubeSource, stop: threading.Event
) -> threading.Thread | None:
    """The thread that asks after `stop`, if there is somebody to ask."""
    if not (config.daemonset and isinstance(source, uninstall.Cluster)):
        return None
    arguments = (source, config.daemonset, DataDir(config.data_dir), stop)
    asking = threading.Thread(target=uninstall.watch, args=arguments, name="uninstall", daemon=True)
    asking.start()
    return asking


def main() -> int:
    """The command `oneagent-csi-provisioner`."""
    try:
        return run(parse())
    except UnsafeNameError as error:
        raise SystemExit(f"--data-dir: {error}") from error
