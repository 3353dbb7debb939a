"""Redaction of everything that looks like a secret.

It matches forms, not known values, which would have to be read first. In doubt it removes too much rather than too
little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

HIDDEN: Final = "***"

_WORDS: Final = r"(?:token|passw(?:or)?d|passphrase|secret|api-?_?key|credential)"
# A redacted value matches no form: redacted again as a part of JSON, it must not remove a backslash.
# Text behind a word is bounded, and text before it is not matched, so a long line takes no quadratic time.
_FORMS: Final = (
    # First: a form that took the first word, such as `Bearer`, would leave the rest of the key.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    # Tokens of a tenant; the public part is removed too.
    (re.compile(r"\bdt0[a-z][0-9]{2}\.[A-Za-z0-9._-]+"), HIDDEN),
    # Tokens of service accounts.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,500}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), HIDDEN),
    (re.compile(r"\b(Api-Token|Bearer|Basic)[ ]+(?!\*\*\*)[^\s\"',]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # Credentials in the URL of a proxy, a registry or a tenant.
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^/\s\"'@]+@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    # Flags, queries, variables.
    (re.compile(rf"({_WORDS}[\w-]{{0,40}}=)(?!\*\*\*)[^\s\"',&;]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # JSON in logs, also as a string within JSON.
    (
        re.compile(rf"({_WORDS}[\w-]{{0,40}}\\?\"\s*:\s*\\?\")(?!\*\*\*)(?:[^\"\\]|\\[^\"])+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)
_NAMES_SECRET: Final = re.compile(_WORDS, re.IGNORECASE)
_IS_SECRET: Final = re.compile(r"(?:token|passw(?:or)?d|passphrase|api-?_?key|credentials?)$", re.IGNORECASE)
"""Fields and annotations that hold a secret, for YAML without quotes. Others only name one."""
_COPIES: Final = ("kubectl.kubernetes.io/last-applied-configuration",)
"""Annotations that hold a copy of the whole object."""


def redact_text(text: str) -> str:
    """Return the text without secrets."""
    for form, replacement in _FORMS:
        text = form.sub(replacement, text)
    return text


def redact(obj: Any) -> Any:
    """Return an object without secrets in its texts, and without copies of itself.

    Texts are redacted before they are written as YAML or JSON, which breaks lines and adds characters between.
    """
    if isinstance(obj, Mapping):
        return {key: _redact_field(str(key), value, obj) for key, value in obj.items() if not _is_copy(str(key))}
    if isinstance(obj, list | tuple):
        return [redact(item) for item in obj]
    return redact_text(obj) if isinstance(obj, str) else obj


def keys_only(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a ConfigMap or the like, without values."""
    metadata = obj["metadata"]
    return {
        "metadata": {key: metadata[key] for key in ("name", "namespace", "creationTimestamp") if key in metadata},
        "keys": sorted(key for part in ("data", "binaryData") for key in obj.get(part) or {}),
    }


def _is_copy(key: str) -> bool:
    return key in _COPIES or key == "managedFields"


def _redact_field(key: str, value: Any, siblings: Mapping[str, Any]) -> Any:
    if key == "value" and isinstance(value, str):
        if _NAMES_SECRET.search(str(siblings.get("name", ""))):
            return HIDDEN
        # A proxy without a scheme does not look like a URL.
        return f"{HIDDEN}@{value.rpartition('@')[2]}" if "@" in value else redact_text(value)
    if isinstance(value, str) and _IS_SECRET.search(key):
        return HIDDEN
    return redact(value)
