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

from oneagent.common import flags, identifiers, logs
from oneagent.common.http import server_tls
from oneagent.common.http.health import HealthServer
from oneagent.common.kubernetes.errors import ApiError
from oneagent.common.kubernetes.events import subject_of
from oneagent.webhook import admission, api, cache, certificates, events, http_server, injection, validation
from oneagent.webhook.cache import circuit_breaker
from oneagent.webhook.injection.inputs import InjectionResult, Notice, Object, PodContext
from oneagent.webhook.metrics import Metrics

log = logging.getLogger(__name__)

_FOLDER_SECONDS: Final = 1.0
_UNSYNCED: Final = "the cluster's objects are not read yet"
_PATIENCE_SECONDS: Final = 20.0
"""How long this process is not ready for want of DynaKubes alone."""


@dataclass(frozen=True, slots=True)
class Config:
    """The webhook's flags; `--help` tells what each is."""

    namespace: str
    image: str
    image_pull_policy: str
    address: str
    metrics_address: str
    secret: str
    certificate_folder: Path | None
    drain_seconds: float
    breaker_failures: int
    breaker_window_seconds: float
    log_format: logs.Format
    log_level: str


def parse(arguments: list[str] | None = None) -> Config:
    """The configuration from flags and environment; ends the process with a clear message on a bad value."""
    parser = flags.create_parser("oneagent-webhook", "Answers API servers about pods, namespaces and DynaKubes.")
    add = flags.adder(parser)
    add("namespace", "dynatrace", "namespace of the DynaKubes, and of this process", env="POD_NAMESPACE")
    add("image", "", "image of the init container in pods; this process' own, as a rule")
    add(
        "image-pull-policy",
        "IfNotPresent",
        "when nodes pull that image",
        choices=("Always", "IfNotPresent", "Never"),
    )
    add("address", ":8443", "host:port for requests of API servers, with TLS", parse=flags.address)
    add("metrics-address", ":8080", "host:port for /livez, /readyz and Prometheus metrics", parse=flags.address)
    add("secret", "oneagent-webhook-certs", "name of the Secret with tls.crt and tls.key")
    add("certificate-folder", "", "folder with tls.crt and tls.key instead of the Secret", parse=_folder)
    add("drain", 5.0, "how long requests are taken after the signal to end", parse=flags.duration)
    add("breaker-failures", 10, "so many pods without agent pause a DynaKube's injection; 0: never", parse=flags.count)
    add("breaker-window", 300.0, "within what time they are counted", parse=flags.duration)
    flags.add_logging(add)
    given = parser.parse_args(arguments)
    for name in ("image", "address", "metrics_address"):
        if not getattr(given, name):
            parser.error(f"--{name.replace('_', '-')} is missing")
    if given.breaker_failures and not given.breaker_window:
        parser.error("--breaker-window 0s: give at least 1s, or --breaker-failures 0")
    return Config(
        namespace=given.namespace,
        image=given.image,
        image_pull_policy=given.image_pull_policy,
        address=given.address,
        metrics_address=given.metrics_address,
        secret=given.secret,
        certificate_folder=given.certificate_folder,
        drain_seconds=given.drain,
        breaker_failures=given.breaker_failures,
        breaker_window_seconds=given.breaker_window,
        log_format=given.log_format,
        log_level=given.log_level,
    )


async def run(config: Config) -> int:
    """Serve until SIGTERM, then drain. The exit code."""
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
        # Whatever has ended should not have: all begins anew, with nothing of before.
        for task in tasks:
            if task.done():
                log.error("the webhook ends", exc_info=task.exception())
        return 1
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)
        await webhook.close()


class Webhook:
    """All parts of the process, put together."""

    def __init__(
        self,
        config: Config,
        connection: api.Api,
        registry: prometheus_client.CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        metrics = Metrics(registry)
        self._config, self._api, self._clock, self._began = config, connection, clock, clock()
        self._events = events.Recorder(connection, metrics)
        circuit = circuit_breaker.CircuitBreaker(
            circuit_breaker.Limits(config.breaker_failures, config.breaker_window_seconds)
        )
        self._cluster = cache.ClusterCache(connection, config.namespace, circuit, registry, self._tell)
        self._tls = server_tls.ServerTls(metrics.certificate_expiry.set)
        metrics.watch_synced(lambda: self._cluster.is_synced)
        answers = admission.Admission(self._cluster, _handlers(config, self._cluster), self._events, config.namespace)
        settings = http_server.Settings(*_address(config.address), drain_seconds=config.drain_seconds)
        self._server = http_server.Server(settings, self._tls.context, answers, metrics)
        self.health = HealthServer(*_address(config.metrics_address), self._trouble, registry)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on in the background, without end."""
        folder = self._config.certificate_folder
        if folder:
            pairs = certificates.follow(folder, self._tls, _FOLDER_SECONDS)
        else:
            pairs = certificates.watch(self._api, self._config.namespace, self._config.secret, self._tls).run()
        return [self._cluster.run(), self._events.run(), pairs]

    async def start(self) -> None:
        await self.health.start()
        await self._server.start()

    async def drain(self) -> None:
        await self._server.stop()

    async def close(self) -> None:
        await self.health.stop()
        await self._api.close()

    def _trouble(self) -> str:
        """Why this process should get no requests; empty if it should."""
        if self._server.draining or not self._server.serving:
            return "not serving, or not for long"
        if not self._cluster.is_synced and not self._is_needed_first():
            return _UNSYNCED
        return self._tls.problem(time.time())

    def _is_needed_first(self) -> bool:
        """Whether DynaKubes may be missing because nobody converts them: those that are stored in an older version
        can only be read with the help of a webhook that is ready."""
        return self._cluster.lacks_only_dynakubes and self._clock() - self._began >= _PATIENCE_SECONDS

    def _tell(self, dynakube: Object, notice: Notice) -> None:
        self._events.record(subject_of(dynakube), notice)


def _handlers(config: Config, cluster: cache.ClusterCache) -> admission.Handlers:
    settings = injection.Settings(
        image=config.image,
        own_namespace=config.namespace,
        version=importlib.metadata.version(identifiers.DISTRIBUTION),
        image_pull_policy=config.image_pull_policy,
    )

    def inject(pod: Object, context: PodContext) -> InjectionResult:
        return injection.inject(pod, context, settings)

    def validate(new: Object, old: Object | None) -> validation.ValidationResult:
        state = validation.ClusterState(
            dynakubes=cluster.dynakubes(),
            namespaces=cluster.labels() if cluster.is_synced else None,
            own_namespace=config.namespace,
            has_csi_driver=cluster.has_csi_driver,
            is_csi_driver_known=cluster.is_csi_driver_known,
        )
        return validation.validate(new, old, state)

    return admission.Handlers(inject, validate, validation.message)


def _folder(text: str) -> Path | None:
    return Path(flags.absolute_path(text)) if text else None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> None:
    config = parse()
    logs.setup(config.log_format, config.log_level)
    try:
        code = asyncio.run(run(config))
    except (ApiError, OSError) as error:
        log.error("the webhook ends", extra=logs.facts(reason=error))
        code = 1
    raise SystemExit(code)


if __name__ == "__main__":
    main()
