"""URLs of servers as users write them, and passwords of proxies that agents can read."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from typing import Final

UNUSABLE_IN_PASSWORDS: Final = " '`,&=+%\\"
"""Characters that have a meaning in the settings from which agents read a proxy."""
UNUSABLE_SHOWN: Final = "space ' ` , & = + % \\"

_LABEL: Final = re.compile(r"[A-Za-z0-9]([-_A-Za-z0-9]{0,61}[A-Za-z0-9])?")


def parse(text: str) -> urllib.parse.SplitResult | None:
    """Parse an http or https URL of a server; None if it is not one."""
    try:
        url = urllib.parse.urlsplit(text)
        usable = url.scheme in ("http", "https") and url.port != 0 and text.isprintable() and " " not in text
    except ValueError:
        return None
    host = (url.hostname or "").removesuffix(".")
    if not usable or not (_is_address(host) or all(_LABEL.fullmatch(label) for label in host.split("."))):
        return None
    return url


def find_unusable(password: str) -> list[str]:
    """Return the characters of a percent-encoded password that agents cannot read, sorted."""
    return sorted(set(urllib.parse.unquote(password)) & set(UNUSABLE_IN_PASSWORDS))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
