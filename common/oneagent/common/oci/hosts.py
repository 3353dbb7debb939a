"""Hosts of an image: its registry's mirrors in their order, then the registry itself.

The node's administrator configures them once for all images; a DynaKube names only images. Only hosts that are
listed for it are reached without TLS. With an allow-list, no image of another registry is downloaded.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from oneagent.common import addresses, flags
from oneagent.common.http import client as http_client
from oneagent.common.oci import reference

ANY: Final = "*"
"""Matches all registries that have no mirrors of their own."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host's copy of an image's repository."""

    registry: str
    """Name in pull secrets."""
    host: str
    path: str
    plain_http: bool = False
    realms: frozenset[str] = frozenset()
    """Hosts, `host[:port]`, that may get its credentials to issue a token, besides its own."""

    @property
    def url(self) -> str:
        return f"{'http' if self.plain_http else 'https'}://{self.host}/v2/{self.path}"


@dataclass(frozen=True, slots=True)
class Registries:
    """The node's rules for registries."""

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By registry or `ANY`: `host[:port][/path]`, below which the registry's images are."""
    plain_http: frozenset[str] = frozenset()
    allowed: tuple[str, ...] = ()
    """Registries, `registry/path` for everything below, or `*.example.com`; empty for all."""
    realms: frozenset[str] = frozenset()
    """Hosts, `host[:port]`, that may get a registry's credentials to issue a token, besides its own."""

    def endpoints(self, image: reference.Reference) -> tuple[Endpoint, ...]:
        """Return the hosts to ask, in this order; `InvalidSettingsError` if the image is not allowed."""
        if self.allowed and not any(_is_covered(entry, image.name) for entry in self.allowed):
            listed = ", ".join(self.allowed)
            raise http_client.InvalidSettingsError(
                f"{image.name} is of a registry that this node may not use: --registry-allow is {listed}"
            )
        mirrors = self.mirrors.get(image.registry, self.mirrors.get(ANY, ()))
        own = Endpoint(image.registry, image.host, image.path, image.registry in self.plain_http, self.realms)
        return (*(self._mirror_endpoint(location, image.path) for location in mirrors), own)

    def _mirror_endpoint(self, location: str, path: str) -> Endpoint:
        host, _, directory = location.partition("/")
        path = f"{directory}/{path}" if directory else path
        return Endpoint(host, host, path, host in self.plain_http, self.realms)


def _is_covered(entry: str, name: str) -> bool:
    registry, _, path = entry.partition("/")
    host, _, rest = name.partition("/")
    registry = reference.normalize_registry(registry)
    # An address of IPv6 is in brackets, which mean something else in a pattern.
    return (host == registry or fnmatch.fnmatchcase(host, registry)) and (
        not path or rest == path or rest.startswith(f"{path}/")
    )


def add_flags(add: flags.AddFlag) -> None:
    """Declare the flags of these rules."""
    host_list = flags.checked(parse_list)
    add(
        "registry-mirrors",
        "",
        "mirrors to try before an image's own registry: docker.io=mirror.example:5000/hub,*=second.example",
        parse=flags.checked(parse_mirrors),
    )
    add("registry-plain-http", "", "registries and mirrors without TLS, comma-separated", parse=host_list)
    add(
        "registry-allow",
        "",
        "allowed registries, as registry, registry/path or *.example.com, comma-separated; all if empty",
        parse=host_list,
    )
    add(
        "registry-realms",
        "",
        "additional token servers, host[:port], that may receive a registry's credentials, comma-separated",
        parse=flags.checked(parse_realms),
    )


def from_flags(args: argparse.Namespace) -> Registries:
    """Return the rules of parsed flags."""
    return Registries(
        args.registry_mirrors, frozenset(args.registry_plain_http), args.registry_allow, args.registry_realms
    )


def parse_list(text: str) -> tuple[str, ...]:
    """Parse hosts or patterns, separated by commas."""
    entries = tuple(part.strip().lower().removesuffix("/") for part in text.split(",") if part.strip())
    for part in entries:
        _check_location(part)
    return entries


def parse_realms(text: str) -> frozenset[str]:
    """Parse hosts, `host[:port]`, separated by commas."""
    entries = parse_list(text)
    for part in entries:
        if "/" in part or "*" in part:
            raise ValueError(f"{part!r} is not host[:port]")
    return frozenset(entries)


def parse_mirrors(text: str) -> dict[str, tuple[str, ...]]:
    """Parse `docker.io=mirror.example:5000/hub,*=second.example`; a registry may appear several times."""
    by_registry: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        registry, equals, location = part.partition("=")
        if not equals or not registry:
            raise ValueError(f"{part!r} is not registry=mirror, for example docker.io=mirror.example:5000/hub")
        for name in (registry, location):
            _check_location(name)
        if "/" in registry:
            raise ValueError(f"{part!r} is not registry=mirror: a path belongs to the mirror only")
        name = reference.normalize_registry(registry.lower())
        by_registry[name] = (*by_registry.get(name, ()), location.lower().removesuffix("/"))
    return by_registry


def _check_location(location: str) -> None:
    host = location.partition("/")[0]
    if "://" in location or not host or any(letter in location for letter in "@?# "):
        raise ValueError(f"{location!r} is not host[:port][/path], without https:// and credentials")
    name, port = addresses.split_port(host)
    if ":" in name and not host.startswith("["):
        raise ValueError(f"{location!r}: put the address of IPv6 in brackets, as [::1]:5000")
    if port:
        addresses.split(host)
