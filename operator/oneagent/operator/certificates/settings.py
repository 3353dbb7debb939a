"""Settings of the webhook's certificates: names, lifetimes and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Issuer = Literal["self", "cert-manager"]

_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR

RANGES: Final = {
    "authority_seconds": (7 * _DAY, 3650 * _DAY),
    "server_seconds": (2 * _HOUR, 397 * _DAY),
    "threshold_seconds": (10 * 60.0, 30 * _DAY),
    "settle_seconds": (1.0, 10 * 60.0),
    "grace_seconds": (30.0, _DAY),
    "check_seconds": (30.0, 3 * _HOUR),
}
"""Allowed values. A week for a CA and two hours for a certificate leave time for repairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSettings:
    """`ValueError` for times that contradict each other; names are validated by the API server."""

    namespace: str
    """Namespace of the webhook and of both Secrets."""
    service: str = "oneagent-webhook"
    port: int = 443
    secret: str = "oneagent-webhook-certs"  # noqa: S105
    """The webhook's Secret: `tls.crt`, `tls.key`, and `ca.crt` with all trusted CAs."""
    authority_secret: str = "oneagent-webhook-ca"  # noqa: S105
    """The CA's key and the state of a rotation. Only the operator reads it."""
    mutating: tuple[str, ...] = ("oneagent-webhook",)
    validating: tuple[str, ...] = ("oneagent-webhook",)
    definition: str = "dynakubes.dynatrace.com"
    """CRD that the webhook converts; empty for none."""
    conversion_path: str = "/convert"
    issuer: Issuer = "self"
    """Overridden by the Secret's annotation of cert-manager."""
    authority_seconds: float = 365 * _DAY
    server_seconds: float = 7 * _DAY
    threshold_seconds: float = 12 * _HOUR
    """Latest renewal before expiry; normally at two thirds of the lifetime."""
    skew_seconds: float = 600.0
    """Certificates are valid from this time before their creation, for clocks that are behind."""
    settle_seconds: float = 10.0
    """Longest time until every API server uses a new bundle; a new CA's certificate is served only after it."""
    grace_seconds: float = 300.0
    """Time that all endpoints must have served the new CA's certificate before the former CA is removed."""
    check_seconds: float = 60.0
    """Interval between runs when nothing is due: pods start unmonitored while a new configuration has no bundle."""
    longest_retry_seconds: float = 30.0
    """Longest pause between retries."""

    def __post_init__(self) -> None:
        for name in ("server_seconds", "settle_seconds", "grace_seconds", "check_seconds", "longest_retry_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}: must be greater than 0")
        # The CA is renewed when a third of its life is left; certificates that it signs until then must fit into it.
        if self.authority_seconds < 3 * self.server_seconds:
            raise ValueError(
                f"authority_seconds is {self.authority_seconds:.0f}: "
                f"it must be at least three times server_seconds ({self.server_seconds:g})"
            )
        if not 0 <= self.threshold_seconds <= self.server_seconds / 2:
            raise ValueError(
                f"threshold_seconds is {self.threshold_seconds:g}: "
                f"it must be at most half of server_seconds ({self.server_seconds:g})"
            )

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the webhook; the API server uses the second."""
        short = f"{self.service}.{self.namespace}"
        return short, f"{short}.svc", f"{short}.svc.cluster.local"


def check_ranges(settings: CertificateSettings) -> None:
    """Raise `ValueError` for a time outside `RANGES`, which only tests use."""
    for name, (least, most) in RANGES.items():
        seconds = getattr(settings, name)
        if not least <= seconds <= most:
            raise ValueError(f"{name} is {seconds:g}: it must be between {least:.0f} and {most:.0f} seconds")
