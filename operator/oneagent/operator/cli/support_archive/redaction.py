"""Redaction of everything that looks like a secret, wherever it stands.

It matches forms, not known values, which would have to be read first. In doubt it removes too much rather than too
little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

HIDDEN: Final = "***"

_WORDS: Final = r"(?:token|passw(?:or)?d|passphrase|secret|api-?_?key|credential)"
# What is hidden already is no secret: gone through once more, as a part of JSON, it must not take a backslash along.
# What stands behind a word is bounded, and what stands before it is not looked at: a long line takes no quadratic time.
_FORMS: Final = (
    # A tenant's tokens begin like this; the public part goes too.
    (re.compile(r"\bdt0[a-z][0-9]{2}\.[A-Za-z0-9._-]+"), HIDDEN),
    # Tokens of service accounts.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,500}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), HIDDEN),
    (re.compile(r"\b(Api-Token|Bearer|Basic)[ ]+(?!\*\*\*)[^\s\"',]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    # Who signs in by an address: of a proxy, a registry, a tenant.
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^/\s\"'@]+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    # Flags, queries, variables.
    (re.compile(rf"({_WORDS}[\w-]{{0,40}}=)(?!\*\*\*)[^\s\"',&;]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # JSON, as logs have it, also where it is text within JSON.
    (
        re.compile(rf"({_WORDS}[\w-]{{0,40}}\\?\"\s*:\s*\\?\")(?!\*\*\*)(?:[^\"\\]|\\[^\"])+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)
_SECRETIVE: Final = re.compile(_WORDS, re.IGNORECASE)
_SECRET_ITSELF: Final = re.compile(r"(?:token|passw(?:or)?d|passphrase|api-?_?key|credentials?)$", re.IGNORECASE)
"""Fields and annotations with a secret in them: YAML has no quotes by which a form could tell. Others name one only."""
_COPIES: Final = ("kubectl.kubernetes.io/last-applied-configuration",)
"""Annotations that have the whole object in them once more."""


def text(of: str) -> str:
    """Return the text without secrets."""
    for form, instead in _FORMS:
        of = form.sub(instead, of)
    return of


def tree(obj: Any) -> Any:
    """Return an object without secrets in its texts, and without copies of itself.

    Texts are redacted before they are written as YAML or JSON, which breaks lines and adds characters between.
    """
    if isinstance(obj, Mapping):
        return {key: _field(str(key), value, obj) for key, value in obj.items() if not _is_copy(str(key))}
    if isinstance(obj, list | tuple):
        return [tree(item) for item in obj]
    return text(obj) if isinstance(obj, str) else obj


def keys_only(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a ConfigMap or the like, without values."""
    metadata = obj["metadata"]
    return {
        "metadata": {key: metadata[key] for key in ("name", "namespace", "creationTimestamp") if key in metadata},
        "keys": sorted(key for part in ("data", "binaryData") for key in obj.get(part) or {}),
    }


def _is_copy(key: str) -> bool:
    return key in _COPIES or key == "managedFields"


def _field(key: str, value: Any, beside: Mapping[str, Any]) -> Any:
    if key == "value" and isinstance(value, str):
        if _SECRETIVE.search(str(beside.get("name", ""))):
            return HIDDEN
        # A proxy may be written without a scheme, so that it does not look like an address.
        return f"{HIDDEN}@{value.rpartition('@')[2]}" if "@" in value else text(value)
    if isinstance(value, str) and _SECRET_ITSELF.search(key):
        return HIDDEN
    return tree(value)
