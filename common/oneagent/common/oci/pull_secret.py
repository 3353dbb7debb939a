"""Pull secrets: registry credentials from `.dockerconfigjson`, as kubelet reads it.

A key names a registry, with a path if it is for some of its images only: `registry.example.com:5000/team`. It may
have `https://` and an API version. `*` matches a part of the host's name, never a dot. The most specific matching
key is used. Docker Hub's keys have several spellings; all of them match.
"""

from __future__ import annotations

import base64
import fnmatch
from dataclasses import dataclass, field
from typing import Final

import msgspec

from oneagent.common import foreign_json, typed_json
from oneagent.common.http import client as http_client
from oneagent.common.oci import reference

DOCKER_CONFIG_KEY: Final = ".dockerconfigjson"
"""Key in Secrets of the type `kubernetes.io/dockerconfigjson`."""

_HUB_KEYS: Final = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", reference.HUB)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, both hidden in `repr`."""

    username: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def basic_auth(self) -> str:
        """Value of the header `Authorization` (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class _Entry:
    host: str
    path: str
    credentials: Credentials

    def matches(self, host: str, path: str) -> bool:
        patterns, _, port = self.host.partition(":")
        name, _, other_port = host.partition(":")
        parts, labels = patterns.split("."), name.split(".")
        same = len(parts) == len(labels) and all(map(fnmatch.fnmatchcase, labels, parts))
        return same and port == other_port and path.startswith(self.path)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The credentials of one Secret, the most specific first."""

    entries: tuple[_Entry, ...] = ()

    def find(self, registry: str, path: str) -> Credentials | None:
        """Return the credentials for an image; None if the Secret has none."""
        for entry in self.entries:
            if entry.matches(registry, path):
                return entry.credentials
        return None


class _Auth(msgspec.Struct):
    username: str = ""
    password: str = ""
    auth: str = ""


class _Config(msgspec.Struct):
    auths: dict[str, _Auth] = {}


def parse(text: str, where: str) -> Keyring:
    """Parse the Secret's text; the `InvalidSettingsError` names `where` and shows nothing of the text."""
    try:
        config = foreign_json.decode(text, _Config)
    except foreign_json.DocumentError:
        remedy = 'a JSON object {"auths": {"registry": {"auth": "…"}}} is needed'
        raise http_client.InvalidSettingsError(f"{where}: {remedy}") from None
    entries = [_entry(key, auth, where) for key, auth in config.auths.items()]
    # A credential helper leaves entries without a password. They never match.
    entries = [entry for entry in entries if entry.credentials.username or entry.credentials.password]
    # A longer path is more specific, and so is a host without a wildcard.
    entries.sort(key=lambda entry: (-len(entry.path), "*" in entry.host, -len(entry.host)))
    return Keyring(tuple(entries))


def for_registry(registry: str, credentials: Credentials) -> Keyring:
    """Return a keyring for all images of a registry."""
    return Keyring((_Entry(registry, "", credentials),))


def _entry(key: str, auth: _Auth, where: str) -> _Entry:
    host, _, path = key.partition("://")[2].partition("/") if "://" in key else key.partition("/")
    for version in ("v1/", "v2/"):
        path = path.removeprefix(version)
    host, path = host.lower(), path.removesuffix("/") if path not in ("v1", "v2") else ""
    if host in _HUB_KEYS:
        host = reference.HUB
    return _Entry(host, path, _credentials(auth, f"{where}: {key}"))


def _credentials(auth: _Auth, where: str) -> Credentials:
    if not auth.auth:
        return Credentials(auth.username, auth.password)
    try:
        padded = auth.auth + "=" * (-len(auth.auth) % 4)
        user, colon, password = base64.b64decode(padded, validate=True).decode().partition(":")
    except ValueError:
        colon = user = password = ""
    if not colon:
        raise http_client.InvalidSettingsError(f"{where}: auth has to be user:password in base64")
    return Credentials(user, password.rstrip("\0"))


typed_json.prepare(_Config)
