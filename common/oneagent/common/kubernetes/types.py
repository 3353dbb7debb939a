"""Objects and times of the Kubernetes API."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

Object = Mapping[str, Any]
"""An object as JSON, not to be changed."""


def timestamp(seconds: float) -> str:
    """`metav1.Time` of seconds since 1970."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
