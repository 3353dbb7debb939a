"""Rules about the connection to the tenant: API URL and proxy.

Values that may hold a password are never part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from oneagent.common import dynakube
from oneagent.common.dynakube.api import fields
from oneagent.common.http import server_url
from oneagent.webhook.validation.context import ValidationContext, quote

_EXAMPLE: Final = re.compile(
    r"https?://([^/]+/e/)?(ENVIRONMENT|(?i:<environment>|[<{]?(your[-_])?environment[-_]?id[>}]?))([.:/]|$)"
)
_TENANT_HOST: Final = re.compile(r"([^.]+)\..*\b(dynatrace|dynatracelabs)\.com", re.IGNORECASE)
_BROWSER_HOST: Final = re.compile(r"(.+)\.apps\.(dynatrace|dynatracelabs)\.com\.?", re.IGNORECASE)
"""Hosts of the third generation's web interface"""
_ENVIRONMENT: Final = re.compile(r"/e/([^/]+)/")

# These stay word for word: users of DynaKubes search for them.
_URL_MISSING: Final = (
    "The DynaKube's specification is missing the API URL or still has the example value set. "
    "Make sure you correctly specify the URL in your custom resource."
)
_URL_INVALID: Final = (
    "The DynaKube's specification has an invalid API URL value set. "
    "Make sure you correctly specify the URL in your custom resource"
)


def api_url_missing(ctx: ValidationContext) -> Iterator[str]:
    url = ctx.text("spec.apiUrl")
    local = any(dynakube.is_local(image) for _, image in ctx.text_in_modes("codeModulesImage", fields.INJECTING_MODES))
    if (not url and not local) or _EXAMPLE.match(url):
        yield _URL_MISSING


def api_url_invalid(ctx: ValidationContext) -> Iterator[str]:
    url = ctx.text("spec.apiUrl")
    if not url or _EXAMPLE.match(url):
        return
    if "@" in url:
        yield f"{_URL_INVALID}: spec.apiUrl must not contain credentials; put them in a Secret."
    elif host := _host_for_browsers(url):
        yield (
            f"spec.apiUrl leads to {quote(host)}, which serves browsers and has no API for agents. Make sure that it "
            f"reads {_api_url_beside(host)}."
        )
    elif fault := _api_url_fault(url):
        yield f"{_URL_INVALID}: spec.apiUrl is {quote(url)}, {fault}."


def tenant_changed(ctx: ValidationContext) -> Iterator[str]:
    """Refuse a URL of another tenant. The API server compares only URLs, not the tenant that the operator found."""
    if ctx.old is None:
        return
    tenant = _tenant_in_url(ctx.text("spec.apiUrl"))
    if tenant and ctx.tenant and tenant != ctx.tenant.lower():
        yield (
            f"spec.apiUrl leads to the tenant {quote(tenant)}, but the DynaKube belongs to the tenant "
            f"{quote(ctx.tenant)}. Make sure that the tenant stays the same, or delete the DynaKube and create a "
            "new one."
        )


def proxy_invalid(ctx: ValidationContext) -> Iterator[str]:
    proxy = ctx.text("spec.proxy.value")
    if proxy and server_url.parse(proxy) is None:
        yield (
            "spec.proxy.value (not shown) is not the URL of a proxy. Make sure that it reads "
            "http://proxy.example:3128, with a password only in percent-encoding."
        )


def proxy_password_invalid(ctx: ValidationContext) -> Iterator[str]:
    """Refuse characters that have a meaning in the settings from which agents read the proxy."""
    url = server_url.parse(ctx.text("spec.proxy.value"))
    if unusable := server_url.find_unusable((url and url.password) or ""):
        shown = " ".join(map(repr, unusable))
        yield (
            f"The password in spec.proxy.value has characters that agents cannot read: {shown}. "
            f"Make sure that the password has none of: {server_url.UNUSABLE_SHOWN}."
        )


def has_tls(ctx: ValidationContext) -> bool:
    return not ctx.text("spec.apiUrl").lower().startswith("http:")


def has_proxy_password(ctx: ValidationContext) -> bool:
    url = server_url.parse(ctx.text("spec.proxy.value"))
    return url is not None and bool(url.password)


def _api_url_fault(url: str) -> str:
    """Describe what makes an API URL invalid; empty if it is valid."""
    parsed = server_url.parse(url)
    if parsed is None:
        return "which is not a URL such as https://abc12345.live.dynatrace.com/api"
    if parsed.query or parsed.fragment or not parsed.path.rstrip("/").endswith("/api"):
        return "which does not end in /api"
    return ""


def _host_for_browsers(url: str) -> str:
    """Return the host of a URL of the third generation; empty if it is none."""
    parsed = server_url.parse(url)
    host = (parsed and parsed.hostname) or ""
    return host if _BROWSER_HOST.fullmatch(host) else ""


def _api_url_beside(host: str) -> str:
    """Return the tenant's API URL; only in production its host has a word in place of `apps`."""
    host = host.removesuffix(".")
    inner = ".live." if host.endswith(".dynatrace.com") else "."
    return f"https://{host.replace('.apps.', inner)}/api"


def _tenant_in_url(text: str) -> str:
    """Return the tenant in a URL's path or host name; empty if the URL does not name it."""
    url = server_url.parse(text)
    if url is None:
        return ""
    match = _ENVIRONMENT.search(url.path) or _TENANT_HOST.fullmatch(url.hostname or "")
    return match[1].lower() if match else ""
