"""Names that more than one component must spell the same way."""

from __future__ import annotations

import re
from typing import NewType

DRIVER_NAME = "csi.oneagent.dynatrace.com"
DISTRIBUTION = "oneagent-csi"

API_GROUP = "dynatrace.com"
INJECTION_GROUP = DRIVER_NAME
INJECTION_KIND = "OpenTelemetryInjection"
INJECTION_PLURAL = "opentelemetryinjections"
"""The resource for OpenTelemetry's agents: group, kind, and the name in paths."""

FEATURE_PREFIX = "feature.dynatrace.com/"

Version = NewType("Version", str)
"""An agent version as its source names it, safe as a directory name: `1.277.0.20230914-094321`."""

StoreKey = NewType("StoreKey", Version)
"""The name of a version in a node's agent store: the digest of its content, or its version and source."""

DynaKubeName = NewType("DynaKubeName", str)
"""Name of a DynaKube: a DNS-1035 label, so also safe as a directory name."""

TenantId = NewType("TenantId", str)
"""UUID of a tenant as its API returns it: `[A-Za-z0-9._-]` only, so also safe as a directory name."""

VERSION_FORM = "letters, digits, '.', '_' and '-', a letter or digit first, at most 100, and no digest such as sha256-…"
_SOURCE = re.compile(r"_[0-9a-f]{24}$")
_VERSION = re.compile(r"(?!(?:[a-z]+-)?sha(?:256|512)-)[a-z0-9][a-z0-9._-]{0,99}", re.IGNORECASE)


def is_version(text: str) -> bool:
    """Return True for a usable version name, see `VERSION_FORM`. A digest is refused: content alone may claim it."""
    return _VERSION.fullmatch(text) is not None


def agent_version(key: str) -> Version:
    """Return the version in a store's key, as its source names it; a digest is its own version."""
    return Version(_SOURCE.sub("", key))
