"""Images that the tenant names in a public registry, in place of its own registry and packages.

The operator asks the tenant for them and writes its decision into the status, whose `source` then is `SOURCE`. Nodes
follow the decision. An image in the specification comes first; in `classicFullStack` the tenant's registry stays.
"""

from __future__ import annotations

import re
from typing import Final

from oneagent.common.dynakube.api import feature_flags
from oneagent.common.dynakube.mode import Mode
from oneagent.common.kubernetes import fields

FLAGS: Final = ("use-public-registry", "public-registry")
OVERRIDE: Final = "spec.publicRegistryOverride"
SOURCE: Final = "public-registry"

_HOST: Final = re.compile(r"[A-Za-z0-9]([-.A-Za-z0-9]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?")


def is_used(obj: object, mode: Mode) -> bool:
    return mode is not Mode.CLASSIC_FULL_STACK and is_requested(obj)


def is_requested(obj: object) -> bool:
    """Return True if the DynaKube has one of the flags, whatever its mode."""
    return any(feature_flags.text(obj, flag).lower() == "true" for flag in FLAGS)


def host(obj: object) -> str:
    """Return the registry that the tenant has to choose; empty for its own choice. `FieldError`."""
    return fields.matching(obj, _HOST, "the host of a registry such as public.ecr.aws", OVERRIDE)


def decided_image(obj: object, section: str) -> str:
    """Return the image of a section of the status; empty if it is not from a public registry."""
    source = fields.text(obj, f"status.{section}.source")
    return fields.text(obj, f"status.{section}.imageID") if source == SOURCE else ""
