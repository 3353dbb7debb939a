"""A tenant with one package, and a directory to download it to."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from oneagent.common import identifiers
from oneagent.common.http import client as http_client
from oneagent.common.http import download as http_download
from oneagent.common.tenant import client as tenant_client
from tests.fakes import tenant as double

VERSION = identifiers.Version("1.277.0.20230914-094321")
SIZE = 300_000


@dataclass
class Bench:
    """A tenant with one package, and a directory to download it to."""

    server: double.Tenant
    folder: Path
    content: bytes
    pauses: list[float] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def into(self) -> Path:
        return self.folder / "package.zip"

    @property
    def part(self) -> Path:
        return self.folder / "package.zip.part"

    def source(self, http: http_client.HttpSettings | None = None) -> http_download.HttpSource:
        access = tenant_client.TenantAccess(
            self.server.api_url, self.server.token, http=http or http_client.HttpSettings(timeout_seconds=5)
        )
        return tenant_client.package_source(access, VERSION, machine="x86_64")

    def download(
        self,
        *,
        attempts: int = 5,
        stall_seconds: float = 5,
        expected_sha256: str = "",
        expected_size: int | None = None,
        free: int = 10**12,
        reserve: int = 0,
        source: http_download.Source | None = None,
    ) -> http_download.Downloaded:
        return http_download.download(
            source or self.source(),
            self.into,
            cancelled=self.cancelled,
            limits=http_download.DownloadLimits(attempts=attempts, stall_seconds=stall_seconds, reserve_bytes=reserve),
            expected_sha256=expected_sha256,
            expected_size=expected_size,
            free=lambda _: free,
            sleep=self.pauses.append,
        )

    def ranges(self) -> list[str]:
        """The `Range` of each request for the package, empty where none was asked for."""
        return [seen.headers.get("Range", "") for seen in self.server.requests if seen.endpoint == "package"]

    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())
