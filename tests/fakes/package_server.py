"""The operator's package endpoint, really served on loopback, with an API server that only reviews tokens.

`RunningPackageServer` runs it in a thread of this process. As a process of its own, to be killed or measured, it serves
one version of a tenant and accepts the tokens that `Reviews` makes:

    python -m tests.fakes.package_server --directory DIR --pem DIR --tenant URL --version V --port 0 --port-file FILE
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import prometheus_client
import trustme

from oneagent.common import package_client
from oneagent.common.http import download, server_tls
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.common.kubernetes.errors import UnavailableError
from oneagent.common.tenant import client as tenant_client
from oneagent.operator import api
from oneagent.operator.package_server import DesiredVersion, PackageMetrics, PackageServer, PackageServerSettings
from oneagent.operator.package_server import handlers as servers
from oneagent.operator.package_server.authentication import Reviewer
from tests.fakes import tenant as double

T = TypeVar("T")

ACCOUNT = "shop/default"
QUICK = download.DownloadLimits(attempts=3, max_pause_seconds=0.1, stall_seconds=2.0)
"""The patience of downloads in tests."""


def token(
    audience: str = package_client.AUDIENCE, seconds: float = 600, account: str = ACCOUNT, **claims: object
) -> str:
    """A token as a service account has it, but for its signature."""
    namespace, _, name = account.partition("/")
    body = {"aud": [audience], "exp": int(time.time() + seconds), "sub": f"system:serviceaccount:{namespace}:{name}"}
    parts = ({"alg": "RS256"}, {**body, **claims}, "signature")
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


class Reviews:
    """Accepts every token that says of itself what it has to, but those of accounts that are `deleted`."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.deleted: set[str] = set()
        self.unavailable = False
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda status: status
        """Changes an answer before it is given."""
        self.seconds = 0.0

    async def create(self, resource: api.Resource, obj: Mapping[str, Any], namespace: str = "") -> api.Object:
        assert (resource, namespace) == (api.TOKEN_REVIEWS, "")
        given, audiences = obj["spec"]["token"], obj["spec"]["audiences"]
        self.tokens.append(given)
        await asyncio.sleep(self.seconds)
        if self.unavailable:
            raise UnavailableError(f"POST tokenreviews: 503: {given}")
        body = given.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        _, _, account = claims["sub"].partition("system:serviceaccount:")
        if account.replace(":", "/") in self.deleted:
            return {"status": self.answer({"authenticated": False, "error": "no such account"})}
        shared = [audience for audience in audiences if audience in claims["aud"]]
        status = {"authenticated": bool(shared), "user": {"username": claims["sub"]}, "audiences": shared}
        return {"status": self.answer(status)}


class Pair:
    """A certificate that a test can change."""

    def __init__(self, authority: trustme.CA) -> None:
        self.authority = authority
        self.renew(authority)

    def renew(self, authority: trustme.CA, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> None:
        leaf = authority.issue_cert("localhost", "127.0.0.1", key_type=key_type)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        self.pair = server_tls.Pair(chain, leaf.private_key_pem.bytes())

    async def current(self) -> server_tls.Pair:
        return self.pair


class Files:
    """A pair that stays in two files."""

    def __init__(self, directory: Path) -> None:
        self._pair = server_tls.Pair((directory / "chain.pem").read_bytes(), (directory / "key.pem").read_bytes())

    async def current(self) -> server_tls.Pair:
        return self._pair


def desired_version(
    version: str,
    api_url: str,
    *,
    dynakube: str = "demo",
    token: str = double.TOKEN,
    technologies: tuple[str, ...] = ("all",),
) -> DesiredVersion:
    async def origin(package: package_client.Package) -> download.Source:
        access = tenant_client.TenantAccess(api_url, token)
        return tenant_client.package_source(
            access,
            package.version,
            flavor=package.flavor,
            technologies=package.technologies,
            machine=package.machine,
        )

    return DesiredVersion(DynaKubeName(dynakube), Version(version), origin, api_url, technologies, api_url)


class RunningPackageServer:
    """A package server in a thread of its own; a context manager."""

    def __init__(
        self,
        directory: Path,
        *,
        budget: int = 1 << 30,
        limits: servers.RequestLimits | None = None,
        port: int = 0,
        reviewer: Reviewer | None = None,
        **settings: Any,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.authority = trustme.CA()
        self.reviews = Reviews()
        self._reviewer = reviewer or self.reviews
        self.pair = Pair(self.authority)
        self.registry = prometheus_client.CollectorRegistry()
        self.directory = directory / "packages"
        self.ca_file, self.token_file = directory / "ca.crt", directory / "token"
        self.ca_file.write_bytes(self.authority.cert_pem.bytes())
        self.token_file.write_text(token())
        self.now, self.elapsed = time.time, time.monotonic
        self._settings = PackageServerSettings(
            self.directory,
            budget,
            host="127.0.0.1",
            port=port,
            limits=limits or servers.RequestLimits(),
            downloads=QUICK,
            **{"renew_seconds": 0.05, "drain_seconds": 5.0, **settings},
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.do(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        metrics = PackageMetrics(self.registry)
        self.endpoint = PackageServer(
            self._settings,
            self._reviewer,
            self.pair,
            metrics,
            now=self._now,
            elapsed=self._elapsed,
        )
        await self.endpoint.start()

    def _now(self) -> float:
        return self.now()

    def _elapsed(self) -> float:
        return self.elapsed()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def set_desired(self, *versions: DesiredVersion) -> None:
        async def apply() -> None:
            self.endpoint.set_desired(versions)

        self.do(apply())

    def stop(self) -> None:
        self.do(self.endpoint.stop())

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.endpoint.port}"

    @property
    def client(self) -> package_client.Endpoint:
        """The settings for `package_client`."""
        return package_client.Endpoint(self.url, self.token_file, self.ca_file)

    def counted(self, metric: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"oneagent_operator_{metric}", labels) or 0.0


def package(version: str, dynakube: str = "demo", **kind: Any) -> package_client.Package:
    return package_client.Package(DynaKubeName(dynakube), Version(version), kind.pop("machine", "x86_64"), **kind)


async def _serve(given: argparse.Namespace) -> None:
    settings = PackageServerSettings(given.directory, host="127.0.0.1", port=given.port, downloads=QUICK)
    metrics = PackageMetrics(prometheus_client.CollectorRegistry())
    endpoint = PackageServer(settings, Reviews(), Files(given.pem), metrics)
    endpoint.set_desired([desired_version(given.version, given.tenant)])
    await endpoint.start()
    unfinished = given.port_file.with_suffix(".new")
    unfinished.write_text(str(endpoint.port))
    unfinished.rename(given.port_file)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.package_server", description="An endpoint to kill")
    for name in ("directory", "pem", "port-file"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--tenant", required=True, help="its API URL")
    parser.add_argument("--version", required=True)
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
