"""What the certificates are for, and how long everything about them lasts."""

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
"""What a cluster's owner may choose. A week for a CA and two hours for a certificate leave time to repair things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Names are refused by the API server if they can't be; `ValueError` for times that contradict each other."""

    namespace: str
    """Of the webhook and of both Secrets."""
    service: str = "oneagent-webhook"
    port: int = 443
    secret: str = "oneagent-webhook-certs"  # noqa: S105
    """What the webhook serves with: `tls.crt`, `tls.key`, and `ca.crt` with everything that verifies it."""
    authority_secret: str = "oneagent-webhook-ca"  # noqa: S105
    """The CA's key, and how far a rotation is. Nobody but the operator reads it."""
    mutating: tuple[str, ...] = ("oneagent-webhook",)
    validating: tuple[str, ...] = ("oneagent-webhook",)
    definition: str = "dynakubes.dynatrace.com"
    """The CRD that is converted by the webhook; '' for none."""
    conversion_path: str = "/convert"
    issuer: Issuer = "self"
    """cert-manager also counts as chosen if the Secret says that it is cert-manager's."""
    authority_seconds: float = 365 * _DAY
    server_seconds: float = 7 * _DAY
    threshold_seconds: float = 12 * _HOUR
    """So long before their end certificates are renewed at the latest; normally that is at two thirds of their life."""
    skew_seconds: float = 600.0
    """Certificates are valid from so long before they are made, for those whose clock is behind."""
    settle_seconds: float = 10.0
    """How long every API server takes at most to heed a new bundle: so long a new CA waits before it is served."""
    grace_seconds: float = 300.0
    """How long every endpoint has to have served the new CA's certificates before the old CA is no longer trusted."""
    check_seconds: float = 300.0
    """How often everything is looked at when nothing is due."""
    patience_seconds: float = 30.0
    """The longest pause between two attempts at something that does not work yet."""

    def __post_init__(self) -> None:
        for name in ("server_seconds", "settle_seconds", "grace_seconds", "check_seconds", "patience_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}: it has to be more than 0")
        # The CA is renewed when a third of its life is left: what it signs until then has to fit into that.
        if self.authority_seconds < 3 * self.server_seconds:
            raise ValueError(
                f"authority_seconds is {self.authority_seconds:.0f}: "
                f"it has to be at least three times server_seconds ({self.server_seconds:g})"
            )
        if not 0 <= self.threshold_seconds <= self.server_seconds / 2:
            raise ValueError(
                f"threshold_seconds is {self.threshold_seconds:g}: "
                f"it has to be at most half of server_seconds ({self.server_seconds:g})"
            )

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names under which the webhook is called; the API server uses the second."""
        short = f"{self.service}.{self.namespace}"
        return short, f"{short}.svc", f"{short}.svc.cluster.local"


def refuse_unusual(settings: Settings) -> None:
    """`ValueError` for a time outside `RANGES`, which only a test may want."""
    for name, (least, most) in RANGES.items():
        seconds = getattr(settings, name)
        if not least <= seconds <= most:
            raise ValueError(f"{name} is {seconds:g}: it has to be between {least:.0f} and {most:.0f} seconds")
