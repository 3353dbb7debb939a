"""Reads a request: which package, and which of its bytes (RFC 9110 sections 13 and 14).

Nothing of a request is used as it came: each part has to match what `packageendpoint.Package` allows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from oneagent.common import identifiers, package_client
from oneagent.common.http import client as http_client
from oneagent.operator.package_server.errors import BadRequestError, MethodError

_PATH: Final = re.compile(rf"{package_client.PATH_PREFIX}/([^/?#%]+)/([^/?#%]+?)(/{package_client.METADATA})?")
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_KNOWN: Final = frozenset({"arch", "flavor", "technologies"})


@dataclass(frozen=True, slots=True)
class PackageRequest:
    package: package_client.Package
    metadata: bool
    """Only what the package is, not its bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `first` up to, and without, `end`."""

    first: int
    end: int


def read(request: web.BaseRequest) -> PackageRequest:
    """What is asked for; `BadRequestError` or `MethodError` if that is nothing we have."""
    if request.method not in ("GET", "HEAD"):
        raise MethodError("only GET and HEAD are answered")
    if request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers:
        raise BadRequestError("a request for a package has no body")
    found = _PATH.fullmatch(request.rel_url.raw_path)
    if found is None:
        raise BadRequestError(f"the path has to be {package_client.PATH_PREFIX}/<dynakube>/<version>[/metadata]")
    query = request.rel_url.query
    if not _KNOWN.issuperset(query) or len(query) != len(set(query)):
        raise BadRequestError("arch, flavor and technologies may be given, each once")
    if "arch" not in query:
        raise BadRequestError("arch is missing: a machine's name such as x86_64 or aarch64")
    technologies = query.get("technologies", "")
    try:
        package = package_client.Package(
            identifiers.DynaKubeName(found[1]),
            identifiers.Version(found[2]),
            query["arch"],
            query.get("flavor", "default"),
            tuple(technologies.split(",")) if technologies else (),
        )
    except http_client.InvalidSettingsError as error:
        raise BadRequestError(str(error)) from None
    return PackageRequest(package, found[3] is not None)


def part(request: web.BaseRequest, etag: str, size: int) -> Part | None:
    """The bytes that are asked for; the whole of it unless a single range is, and None for one beyond the end.

    A range that depends on another package than this one is not honoured (`If-Range`, compared strongly), nor are
    several at once: both get the whole, as the RFC allows.
    """
    whole = Part(0, size)
    found = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if found is None or request.method != "GET" or request.headers.get("If-Range", etag) != etag:
        return whole
    first, last = found.groups()
    if not first and not last:
        return whole
    if not first:
        return Part(max(0, size - int(last)), size) if int(last) and size else None
    if last and int(last) < int(first):
        return whole
    if int(first) >= size:
        return None
    return Part(int(first), min(int(last) + 1, size) if last else size)


def has_it(request: web.BaseRequest, etag: str) -> bool:
    """Whether the caller says that it has this package already (`If-None-Match`)."""
    given = request.headers.get("If-None-Match", "")
    return given.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in given.split(","))
