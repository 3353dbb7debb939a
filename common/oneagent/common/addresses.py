"""Hosts and ports in flags and lists: the one place that knows how addresses of IPv6 are written.

AddressError    a text is no address, or nothing can listen there
"""

from __future__ import annotations

import re
import socket
from typing import Final

_HOST: Final = re.compile(r"[^\s/@?#\[\]]*")


class AddressError(ValueError):
    pass


def split(address: str) -> tuple[str, int]:
    """Host and port of `:9808`, `0.0.0.0:9808`, `localhost:9808` or `[::1]:9808`; no host means all."""
    try:
        host, port = split_port(address)
    except AddressError:
        host, port = "", ""
    if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise AddressError(f"{address!r} is not an address such as :9808, 127.0.0.1:9808 or [::1]:9808")
    return host, int(port)


def split_port(text: str) -> tuple[str, str]:
    """Host and port of `name`, `name:443`, `127.0.0.1:443`, `[::1]`, `[::1]:443` or `::1`; the port may be empty."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if bracket and _is_ipv6(host) and (not rest or rest.startswith(":")):
            return host, rest[1:]
    elif text.count(":") > 1:
        if _is_ipv6(text):
            return text, ""
    else:
        host, _, port = text.partition(":")
        if _HOST.fullmatch(host):
            return host, port
    raise AddressError(f"{text!r} is neither a host nor host:port; an address of IPv6 with a port is [::1]:443")


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True
