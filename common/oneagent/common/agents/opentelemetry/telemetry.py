"""The settings of an OpenTelemetryInjection that its agents get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Authority(NamedTuple):
    """The object that has the exporter's CA."""

    kind: Literal["ConfigMap", "Secret"]
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Telemetry:
    variables: tuple[tuple[str, str], ...] = ()
    """Names and values, without those from a Secret"""
    headers_secret: str = ""
    """Name of the Secret whose keys are headers of the exporter's requests"""
    authority: Authority | None = None
    """Certificates that the exporter trusts; None for the system's"""
    inputs: str = ""
    """Digest of the versions of these objects that the operator has read last; empty if none has"""
