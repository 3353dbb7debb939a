"""Rules about the ways to the tenant: its API URL and the proxy on the way.

Values that may hold a password are never part of a message.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Iterator
from typing import Final

from oneagent.common import dynakube
from oneagent.common.dynakube.api import fields
from oneagent.webhook.validation.context import Subject, quoted

_EXAMPLE: Final = re.compile(
    r"https?://([^/]+/e/)?(ENVIRONMENT|(?i:<environment>|[<{]?(your-)?environment-?id[>}]?))([.:/]|$)"
)
_LABEL: Final = re.compile(r"[A-Za-z0-9]([-_A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_TENANTS_OWN: Final = re.compile(r"([^.]+)\..*\b(dynatrace|dynatracelabs)\.com", re.IGNORECASE)
_ENVIRONMENT: Final = re.compile(r"/e/([^/]+)/")
_UNUSABLE_IN_PASSWORDS: Final = frozenset(" '`,&=+%\\")

# Word for word what users of DynaKubes know and search for.
_URL_MISSING: Final = (
    "The DynaKube's specification is missing the API URL or still has the example value set. "
    "Make sure you correctly specify the URL in your custom resource."
)
_URL_INVALID: Final = (
    "The DynaKube's specification has an invalid API URL value set. "
    "Make sure you correctly specify the URL in your custom resource"
)


def api_url_missing(seen: Subject) -> Iterator[str]:
    url = seen.text("spec.apiUrl")
    local = any(dynakube.is_local(image) for _, image in seen.each("codeModulesImage", fields.INJECTING_MODES))
    if (not url and not local) or _EXAMPLE.match(url):
        yield _URL_MISSING


def api_url_invalid(seen: Subject) -> Iterator[str]:
    url = seen.text("spec.apiUrl")
    if not url or _EXAMPLE.match(url):
        return
    if "@" in url:
        yield f"{_URL_INVALID}: spec.apiUrl must not hold credentials, they belong in a Secret."
    elif fault := _fault(url):
        yield f"{_URL_INVALID}: spec.apiUrl is {quoted(url)}, {fault}."


def tenant_changed(seen: Subject) -> Iterator[str]:
    """The API server compares the two URLs. It cannot know the tenant that the operator found behind the old one."""
    if seen.old is None:
        return
    found = _tenant(seen.text("spec.apiUrl"))
    if found and seen.tenant and found != seen.tenant.lower():
        yield (
            f"The DynaKube's API URL leads to the tenant {quoted(found)}, but the DynaKube belongs to the tenant "
            f"{quoted(seen.tenant)}. Make sure that the tenant stays the same, or delete the DynaKube and create a "
            "new one."
        )


def proxy_invalid(seen: Subject) -> Iterator[str]:
    proxy = seen.text("spec.proxy.value")
    if proxy and _parsed(proxy) is None:
        yield (
            "The DynaKube's proxy, spec.proxy.value (not shown), is not the URL of a proxy. Make sure that it reads "
            "http://proxy.example:3128, with a password only in percent-encoding."
        )


def proxy_password_unusable(seen: Subject) -> Iterator[str]:
    """Agents read the proxy from settings in which these characters have a meaning of their own."""
    url = _parsed(seen.text("spec.proxy.value"))
    found = set(urllib.parse.unquote((url and url.password) or "")) & _UNUSABLE_IN_PASSWORDS
    if found:
        shown = " ".join(repr(character) for character in sorted(found))
        yield (
            f"The password in the DynaKube's proxy, spec.proxy.value, has characters that agents cannot read: {shown}. "
            "Make sure that the password has none of: space ' ` , & = + % \\."
        )


def has_tls(seen: Subject) -> bool:
    return not seen.text("spec.apiUrl").lower().startswith("http:")


def has_proxy_password(seen: Subject) -> bool:
    url = _parsed(seen.text("spec.proxy.value"))
    return url is not None and bool(url.password)


def _fault(url: str) -> str:
    """What is wrong with an API URL; empty if nothing is."""
    parsed = _parsed(url)
    if parsed is None:
        return "which is not a URL such as https://abc12345.live.dynatrace.com/api"
    if parsed.query or parsed.fragment or not parsed.path.rstrip("/").endswith("/api"):
        return "which does not end in /api"
    if not _is_address(parsed.hostname or "") and "." not in (parsed.hostname or "").rstrip("."):
        return "whose host has no domain"
    return ""


def _parsed(text: str) -> urllib.parse.SplitResult | None:
    """The URL of a server by http or https; None if it is none."""
    try:
        url = urllib.parse.urlsplit(text)
        usable = url.scheme in ("http", "https") and url.port != 0 and text.isprintable() and " " not in text
    except ValueError:
        return None
    host = (url.hostname or "").removesuffix(".")
    if not usable or not (_is_address(host) or all(_LABEL.fullmatch(label) for label in host.split("."))):
        return None
    return url


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _tenant(text: str) -> str:
    """The tenant that a URL names, by its path or by a host of its own; empty where only the server knows it."""
    url = _parsed(text)
    if url is None:
        return ""
    found = _ENVIRONMENT.search(url.path) or _TENANTS_OWN.fullmatch(url.hostname or "")
    return found[1].lower() if found else ""
