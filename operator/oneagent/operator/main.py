"""The command `oneagent-operator`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import prometheus_client

from oneagent.common import addresses, flags, identifiers, logs, prometheus
from oneagent.common.dynakube import network_defaults
from oneagent.common.dynakube.api.versions import NEWEST
from oneagent.common.dynakube.network_defaults import NetworkDefaults
from oneagent.common.http import health
from oneagent.common.kubernetes import watch_silence
from oneagent.common.kubernetes.errors import ApiError
from oneagent.common.oci import hosts
from oneagent.common.oci.hosts import Registries
from oneagent.operator import api, leader_election
from oneagent.operator.certificates import settings
from oneagent.operator.certificates.controller import Metrics
from oneagent.operator.controller import Controller, ControllerSettings
from oneagent.operator.package_server import PackageMetrics, runner
from oneagent.operator.startup_taint import taint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Config:
    """Configuration from flags; see `--help`."""

    namespace: str
    identity: str
    lease: str
    lease_seconds: float
    api_version: str
    package_address: str
    package_directory: Path
    package_budget_bytes: int
    service: str
    certificates: str
    pull_secrets: tuple[str, ...]
    registries: Registries
    network_defaults: NetworkDefaults
    startup_taint: taint.Taint | None
    startup_taint_timeout_seconds: float
    opentelemetry: bool
    metrics_address: str
    log_format: logs.Format
    log_level: str


def parse(arguments: list[str] | None = None) -> Config:
    """Parse flags and environment; an invalid value ends the process with a message."""
    parser = flags.create_daemon_parser(
        "oneagent-operator", "Reconciles DynaKubes: agent versions, namespaces, host agents and certificates."
    )
    add = flags.adder(parser)
    add("namespace", "dynatrace", "namespace of the DynaKubes and their objects", env="POD_NAMESPACE")
    add("identity", "", "name of this process in the Lease; the host name if empty", env="POD_NAME")
    add("lease", "oneagent-operator", "name of the Lease for leader election")
    add(
        "lease-duration",
        30.0,
        "time without a renewal before another replica takes the Lease; at least 3s",
        parse=flags.duration,
    )
    add("api-version", NEWEST, "API version for reading and writing DynaKubes")
    add(
        "package-address",
        "",
        "host:port of the package server for pods and nodes; none if empty",
        parse=flags.address,
    )
    add(
        "package-directory",
        Path("/packages"),
        "directory of cached packages, one per replica",
        parse=flags.absolute_path,
    )
    add("package-budget", 4 << 30, "maximum size of cached packages, such as 10Gi", parse=flags.size)
    add("service", "oneagent-operator", "Service of the package server")
    add(
        "certificates",
        "self",
        "issuer of the webhook's certificates: self, cert-manager, or none to leave them unmanaged",
        choices=("self", "cert-manager", "none"),
    )
    add(
        "pull-secrets",
        "",
        "pull Secrets of the init container's image, comma-separated; without CSI the operator copies them to the "
        "namespaces of DynaKubes",
    )
    hosts.add_flags(add)
    network_defaults.add_flags(add)
    add(
        "startup-taint",
        "",
        "startup taint, KEY:EFFECT, removed from a node with all versions for DynaKubes; none if empty",
        parse=flags.checked(taint.parse),
    )
    add(
        "startup-taint-timeout",
        600.0,
        "time until an Event reports why a node keeps the startup taint, and until a node without driver pod loses it",
        parse=flags.duration,
    )
    add(
        "metrics-address",
        ":8080",
        "host:port of /livez, /readyz and Prometheus metrics; none if empty",
        parse=flags.address,
    )
    add("opentelemetry", False, "watch OpenTelemetryInjections; requires their CRD")
    flags.add_logging(add)
    given = parser.parse_args(arguments)
    if given.lease_duration < 3:
        parser.error(f"--lease-duration {given.lease_duration:g}s: give at least 3s")
    return Config(
        namespace=given.namespace,
        identity=given.identity or f"{socket.gethostname()}_{secrets.token_hex(3)}",
        lease=given.lease,
        lease_seconds=given.lease_duration,
        api_version=given.api_version,
        package_address=given.package_address,
        package_directory=given.package_directory,
        package_budget_bytes=given.package_budget,
        service=given.service,
        certificates=given.certificates,
        pull_secrets=tuple(filter(None, map(str.strip, given.pull_secrets.split(",")))),
        registries=hosts.from_flags(given),
        network_defaults=network_defaults.from_flags(given),
        startup_taint=given.startup_taint,
        startup_taint_timeout_seconds=given.startup_taint_timeout,
        opentelemetry=given.opentelemetry,
        metrics_address=given.metrics_address,
        log_format=given.log_format,
        log_level=given.log_level,
    )


async def run(config: Config) -> int:
    """Lead while the Lease is held; return the exit code after SIGTERM or when the Lease is lost."""
    # First: a signal without a handler ends the process, and does nothing to process 1 of a container.
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = api.Api(await api.connect())
    lease = leader_election.LeaseSettings(
        config.lease,
        config.namespace,
        config.identity,
        config.lease_seconds,
        config.lease_seconds / 4,
        is_pod=config.identity == os.environ.get("POD_NAME"),
    )
    pod_exists = leader_election.pod_finder(server, config.namespace)
    election = leader_election.LeaderElection(server, lease, pod_exists=pod_exists)
    version = importlib.metadata.version(identifiers.DISTRIBUTION)
    work = ControllerSettings(
        namespace=config.namespace,
        api_version=config.api_version,
        package_url=_package_url(config),
        operator_version=version,
        certificates=_certificates(config),
        pull_secrets=config.pull_secrets,
        registries=config.registries,
        network_defaults=config.network_defaults,
        startup_taint=config.startup_taint,
        opentelemetry=config.opentelemetry,
        startup_taint_timeout_seconds=config.startup_taint_timeout_seconds,
    )
    prometheus.add_build_info("operator", prometheus_client.REGISTRY)
    controller = Controller(server, work, Metrics(prometheus_client.REGISTRY))
    watch_silence.export(controller.watches, watch_silence.create_gauge("operator", prometheus_client.REGISTRY))
    tasks = []
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
        if config.metrics_address:
            host, port = addresses.split(config.metrics_address)
            health_server = health.HealthServer(host, port, lambda: _unready_reason(election, controller))
            await stack.enter_async_context(health_server)
        log.info("operator started", extra=logs.fields(namespace=config.namespace, identity=config.identity))
        if config.package_address:
            package_server = runner.PackageServerRunner(
                server, _package_server_settings(config), PackageMetrics(prometheus_client.REGISTRY)
            )
            tasks.append(asyncio.create_task(package_server.run()))
        holding = asyncio.create_task(election.run(controller.run))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((holding, stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
        error = next((task.exception() for task in (holding, *tasks) if task.done()), None)
        for task in (stopping, holding, *tasks):
            task.cancel()
        await asyncio.gather(holding, *tasks, return_exceptions=True)
        if stop.is_set():
            return 0
        # After a lost Lease or a fatal error the process restarts: no state of the last term remains.
        if error is not None:
            log.error("operator stopped", extra=logs.fields(reason=_reasons(error)))
        return 1


def _unready_reason(election: leader_election.LeaderElection, controller: Controller) -> str:
    """Return why the operator is not ready; empty if it is. A replica that waits for the Lease of another is ready."""
    if election.is_undecided:
        return "the Lease of the operator that leads has not been read yet"
    return controller.problem if election.is_leader else ""


def _package_url(config: Config) -> str:
    if not config.package_address:
        return ""
    return f"https://{config.service}.{config.namespace}.svc:{addresses.split(config.package_address)[1]}"


def _package_server_settings(config: Config) -> runner.RunnerSettings:
    host, port = addresses.split(config.package_address)
    return runner.RunnerSettings(
        namespace=config.namespace,
        api_version=config.api_version,
        service=config.service,
        authority_secret=settings.CertificateSettings(namespace=config.namespace).authority_secret,
        directory=config.package_directory,
        budget_bytes=config.package_budget_bytes,
        host=host,
        port=port,
        network_defaults=config.network_defaults,
    )


def _certificates(config: Config) -> settings.CertificateSettings | None:
    if config.certificates == "none":
        return None
    return settings.CertificateSettings(
        namespace=config.namespace, issuer="cert-manager" if config.certificates == "cert-manager" else "self"
    )


def _reasons(error: BaseException) -> str:
    """Return the messages of a group of errors in one line."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_reasons(inner) for inner in error.exceptions)
    return f"{type(error).__name__}: {error}"


def main() -> None:
    config = parse()
    logs.setup(config.log_format, config.log_level)
    try:
        code = asyncio.run(run(config))
    except (ApiError, OSError) as error:
        log.error("operator stopped", extra=logs.fields(reason=error))
        code = 1
    # A thread may still wait for a tenant's response; it has nothing to lose.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
