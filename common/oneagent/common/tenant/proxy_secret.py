"""The Secret that `spec.proxy.valueFrom` names. Its value, which may hold a password, is never part of a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from oneagent.common.http import server_url

KEY: Final = "proxy"


def find_fault(content: Mapping[str, str]) -> str:
    """Return what keeps agents from using the proxy in a Secret, with the remedy; empty if nothing does."""
    proxy = content.get(KEY, "")
    if not proxy:
        return f"has nothing at the key {KEY}: put the proxy's URL there"
    url = server_url.parse(proxy)
    if url is None:
        return (
            f"has no URL of a proxy at the key {KEY}: it must read http://proxy.example:3128, with a password only in "
            "percent-encoding"
        )
    if server_url.find_unusable(url.password or ""):
        return f"has a password that agents cannot read: it must have none of {server_url.UNUSABLE_SHOWN}"
    return ""
