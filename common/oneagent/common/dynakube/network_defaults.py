"""Proxy and CA bundle of DynaKubes that name none, as the cluster's administrator set them for operator and nodes.

They are laid into a DynaKube as if it had named them itself, so all that holds for its own fields holds for them: nodes
may read the objects, and a missing one is an error rather than a request that goes around the proxy.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Final

from oneagent.common import flags
from oneagent.common.dynakube import DynaKube
from oneagent.common.http.client import HttpSettings


@dataclass(frozen=True, slots=True)
class NetworkDefaults:
    """Empty where there is no default."""

    proxy: str = field(default="", repr=False)
    proxy_secret: str = ""
    """Secret in the DynaKubes' namespace whose key `proxy` holds the proxy's URL; `proxy` comes before it."""
    no_proxy: str = ""
    """Hosts that are reached without this proxy, separated by commas."""
    trusted_cas: str = ""
    """ConfigMap in the DynaKubes' namespace whose key `certs` holds PEM certificates."""

    def apply(self, dynakube: DynaKube) -> DynaKube:
        """Return the DynaKube with the defaults for what it does not name. `no_proxy` belongs to the default proxy."""
        if (self.proxy or self.proxy_secret) and not (dynakube.proxy or dynakube.proxy_secret):
            hosts = ",".join(filter(None, (dynakube.no_proxy, self.no_proxy)))
            dynakube = dataclasses.replace(dynakube, proxy=self.proxy, proxy_secret=self.proxy_secret, no_proxy=hosts)
        if self.trusted_cas and not dynakube.trusted_cas:
            dynakube = dataclasses.replace(dynakube, trusted_cas=self.trusted_cas)
        return dynakube


NO_DEFAULTS: Final = NetworkDefaults()


def add_flags(add: flags.AddFlag) -> None:
    """Declare the flags of the defaults."""
    add(
        "default-proxy",
        "",
        "proxy of DynaKubes without spec.proxy, http://host:port; none if empty",
        parse=flags.checked(_parse_proxy),
    )
    add("default-proxy-secret", "", "Secret with the default proxy's URL at the key proxy, for a URL with a password")
    add("default-no-proxy", "", "hosts to reach without the default proxy, comma-separated")
    add(
        "default-trusted-cas",
        "",
        "ConfigMap with PEM certificates at the key certs, for DynaKubes without spec.trustedCAs",
    )


def from_flags(args: argparse.Namespace) -> NetworkDefaults:
    """Return the defaults of parsed flags."""
    return NetworkDefaults(
        args.default_proxy, args.default_proxy_secret, args.default_no_proxy, args.default_trusted_cas
    )


def _parse_proxy(text: str) -> str:
    if "@" in text:
        raise ValueError("has a user or a password, which others could read: put the URL into --default-proxy-secret")
    HttpSettings(proxy=text)
    return text
