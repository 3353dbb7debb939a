"""The command `oneagent-webhook`."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import prometheus_client

from oneagent.common import addresses, flags, identifiers, logs
from oneagent.common.agents import objects
from oneagent.common.http import server_tls
from oneagent.common.http.health import HealthServer
from oneagent.common.kubernetes import list_watch, watch_silence
from oneagent.common.kubernetes.errors import ApiError
from oneagent.webhook import (
    admission,
    api,
    cache,
    certificates,
    events,
    http_server,
    injection,
    secret_reader,
    validation,
)
from oneagent.webhook.cache import circuit_breaker
from oneagent.webhook.injection.inputs import InjectionResult, Notice, Object, PodContext
from oneagent.webhook.metrics import Metrics
from oneagent.webhook.validation import injections

log = logging.getLogger(__name__)

_DIRECTORY_SECONDS: Final = 1.0
_UNSYNCED: Final = "the cluster's objects are not read yet"
_DYNAKUBES_WAIT_SECONDS: Final = 20.0
"""Longest time that this process is not ready only because DynaKubes are missing"""


@dataclass(frozen=True, slots=True)
class Config:
    """The webhook's flags, described by `--help`."""

    namespace: str
    image: str
    image_pull_policy: str
    image_pull_secret: str
    address: str
    metrics_address: str
    secret: str
    certificate_directory: Path | None
    client_ca: Path | None
    drain_seconds: float
    breaker_failures: int
    breaker_window_seconds: float
    opentelemetry: bool
    log_format: logs.Format
    log_level: str


def parse(arguments: list[str] | None = None) -> Config:
    """Read the configuration from flags and environment; ends the process on an invalid value."""
    parser = flags.create_daemon_parser(
        "oneagent-webhook", "Admission webhook for pods, namespaces and DynaKubes, and conversion of DynaKubes."
    )
    add = flags.adder(parser)
    add("namespace", "dynatrace", "namespace of the DynaKubes and this process", env="POD_NAMESPACE")
    add("image", "", "image of the pods' init container, usually the webhook's own")
    add(
        "image-pull-policy",
        "IfNotPresent",
        "pull policy of the init container's image",
        choices=("Always", "IfNotPresent", "Never"),
    )
    add("image-pull-secret", "", "pull Secret of the init container's image; none if empty")
    add("address", ":8443", "host:port for TLS requests of API servers", parse=flags.address)
    add("metrics-address", ":8080", "host:port of /livez, /readyz and Prometheus metrics", parse=flags.address)
    add("secret", "oneagent-webhook-certs", "Secret with tls.crt and tls.key")
    add(
        "certificate-directory",
        "",
        "directory with tls.crt and tls.key, to read instead of the Secret",
        parse=_parse_path,
    )
    add(
        "client-ca",
        "",
        "file of CA certificates for client certificates, which --address then requires",
        parse=_parse_path,
    )
    add("drain", 5.0, "time to accept requests after SIGTERM", parse=flags.duration)
    add("breaker-failures", 10, "failed pods that open a DynaKube's circuit breaker; 0 disables it", parse=flags.count)
    add("breaker-window", 300.0, "time window of --breaker-failures", parse=flags.duration)
    add("opentelemetry", False, "inject for OpenTelemetryInjections; requires their CRD")
    flags.add_logging(add)
    options = parser.parse_args(arguments)
    for name in ("image", "address", "metrics_address"):
        if not getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} is missing")
    if options.breaker_failures and not options.breaker_window:
        parser.error("--breaker-window 0s: give at least 1s, or --breaker-failures 0")
    return Config(
        namespace=options.namespace,
        image=options.image,
        image_pull_policy=options.image_pull_policy,
        image_pull_secret=options.image_pull_secret,
        address=options.address,
        metrics_address=options.metrics_address,
        secret=options.secret,
        certificate_directory=options.certificate_directory,
        client_ca=options.client_ca,
        drain_seconds=options.drain,
        breaker_failures=options.breaker_failures,
        breaker_window_seconds=options.breaker_window,
        opentelemetry=options.opentelemetry,
        log_format=options.log_format,
        log_level=options.log_level,
    )


async def run(config: Config) -> int:
    """Serve until SIGTERM, drain, and return the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    webhook = Webhook(config, api.connect(), prometheus_client.REGISTRY)
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work) for work in webhook.work()]
    stopping = asyncio.create_task(stop.wait())
    try:
        await webhook.start()
        await asyncio.wait((stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await webhook.drain()
            return 0
        # A task that ended is a fault: the process exits, and kubelet restarts it with fresh state.
        for task in tasks:
            if task.done():
                log.error("webhook task failed", exc_info=task.exception())
        return 1
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)
        await webhook.close()


class Webhook:
    """All parts of the process."""

    def __init__(
        self,
        config: Config,
        connection: api.Api,
        registry: prometheus_client.CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
        periods: list_watch.Periods = list_watch.DEFAULT_PERIODS,
    ) -> None:
        metrics = Metrics(registry)
        self._config, self._api, self._clock, self._began = config, connection, clock, clock()
        self._events = events.Recorder(connection, metrics)
        circuit = circuit_breaker.CircuitBreaker(
            circuit_breaker.Limits(config.breaker_failures, config.breaker_window_seconds)
        )
        self._cluster = cache.ClusterCache(
            connection,
            config.namespace,
            circuit,
            registry,
            self._record_state,
            injections=config.opentelemetry,
            periods=periods,
        )
        verify_clients = config.client_ca is not None
        self._tls = server_tls.ServerTls(metrics.certificate_expiry.set, verify_clients=verify_clients)
        metrics.watch_synced(lambda: self._cluster.is_synced)
        self._secret = certificates.watch(connection, config.namespace, config.secret, self._tls)
        self._watches = (*self._cluster.watches, self._secret)
        watch_silence.export(self._watches, metrics.watch_silence)
        handlers = _handlers(config, self._cluster, secret_reader.SecretReader(connection, config.namespace))
        answers = admission.Admission(self._cluster, handlers, self._events, config.namespace)
        settings = http_server.Settings(*addresses.split(config.address), drain_seconds=config.drain_seconds)
        self._server = http_server.Server(settings, self._tls.context, answers, metrics)
        self.health = HealthServer(*addresses.split(config.metrics_address), self._readiness_problem, registry)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """Run the background tasks until cancelled."""
        directory = self._config.certificate_directory
        pairs = certificates.follow(directory, self._tls, _DIRECTORY_SECONDS) if directory else self._secret.run()
        tasks: list[Coroutine[Any, Any, None]] = [self._cluster.run(), self._events.run(), pairs]
        if file := self._config.client_ca:
            tasks.append(certificates.follow_client_authorities(file, self._tls, _DIRECTORY_SECONDS))
        return tasks

    async def start(self) -> None:
        await self.health.start()
        await self._server.start()

    async def drain(self) -> None:
        await self._server.stop()

    async def close(self) -> None:
        await self.health.stop()
        await self._api.close()

    def _readiness_problem(self) -> str:
        """Return why this process is not ready; empty if it is."""
        if self._server.draining or not self._server.serving:
            return "starting or draining"
        if not self._cluster.is_synced and not self._is_needed_first():
            return _UNSYNCED
        return self._tls.problem(time.time()) or watch_silence.problem(self._watches)

    def _is_needed_first(self) -> bool:
        """Return whether DynaKubes may be missing because no webhook converts them.

        The API server can list DynaKubes stored in an older version only with a webhook that is ready.
        """
        return self._cluster.lacks_only_dynakubes and self._clock() - self._began >= _DYNAKUBES_WAIT_SECONDS

    def _record_state(self, dynakube: Object, notice: Notice) -> None:
        self._events.record(objects.subject_of(dynakube), notice, is_state=True)


def _handlers(config: Config, cluster: cache.ClusterCache, secrets: secret_reader.SecretReader) -> admission.Handlers:
    settings = injection.Settings(
        image=config.image,
        own_namespace=config.namespace,
        version=importlib.metadata.version(identifiers.DISTRIBUTION),
        image_pull_policy=config.image_pull_policy,
        image_pull_secret=config.image_pull_secret,
    )

    def inject(pod: Object, context: PodContext) -> InjectionResult:
        return injection.inject(pod, context, settings)

    async def validate(new: Object, old: Object | None) -> validation.ValidationResult:
        state = validation.ClusterState(
            dynakubes=cluster.dynakubes(),
            namespaces=cluster.labels() if cluster.is_synced else None,
            own_namespace=config.namespace,
            has_csi_driver=cluster.has_csi_driver,
            is_csi_driver_known=cluster.is_csi_driver_known,
            secrets=await secrets.read(validation.secret_names(new, config.namespace)),
        )
        if new.get("kind") == identifiers.INJECTION_KIND:
            return injections.validate(new, old, state)
        return validation.validate(new, old, state)

    return admission.Handlers(inject, validate, validation.message)


def _parse_path(text: str) -> Path | None:
    return Path(flags.absolute_path(text)) if text else None


def main() -> None:
    config = parse()
    logs.setup(config.log_format, config.log_level)
    try:
        code = asyncio.run(run(config))
    except (ApiError, OSError) as error:
        log.error("webhook failed", extra=logs.fields(reason=error))
        code = 1
    raise SystemExit(code)


if __name__ == "__main__":
    main()
