"""The versions of the DynaKube API."""

from __future__ import annotations

from typing import Final

VERSIONS: Final = ("v1alpha1", "v1beta1", "v1beta2", "v1beta3", "v1beta4", "v1beta5", "v1beta6")
"""All that are served, oldest first."""
NEWEST: Final = VERSIONS[-1]
"""The one that is stored."""

INJECTION: Final = "v1alpha1"
"""The version of the OpenTelemetryInjection API, which has a group of its own."""
