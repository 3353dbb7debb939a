"""Parses a request: the package and the byte range (RFC 9110 sections 13 and 14).

Every part of a request is validated by `package_client.Package`.
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
    """Request for the package's metadata instead of its bytes."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from `first` up to, but excluding, `end`."""

    first: int
    end: int


def parse(request: web.BaseRequest) -> PackageRequest:
    """Return the requested package; `BadRequestError` or `MethodError` for an invalid request."""
    if request.method not in ("GET", "HEAD"):
        raise MethodError("only GET and HEAD are supported")
    if request.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in request.headers:
        raise BadRequestError("a request for a package must not have a body")
    match = _PATH.fullmatch(request.rel_url.raw_path)
    if match is None:
        raise BadRequestError(f"the path must be {package_client.PATH_PREFIX}/<dynakube>/<version>[/metadata]")
    query = request.rel_url.query
    if not _KNOWN.issuperset(query) or len(query) != len(set(query)):
        raise BadRequestError("only the parameters arch, flavor and technologies are supported, each once")
    if "arch" not in query:
        raise BadRequestError("the parameter arch is missing: give a machine name such as x86_64 or aarch64")
    technologies = query.get("technologies", "")
    try:
        package = package_client.Package(
            identifiers.DynaKubeName(match[1]),
            identifiers.Version(match[2]),
            query["arch"],
            query.get("flavor", "default"),
            tuple(technologies.split(",")) if technologies else (),
        )
    except http_client.InvalidSettingsError as error:
        raise BadRequestError(str(error)) from None
    return PackageRequest(package, match[3] is not None)


def byte_range(request: web.BaseRequest, etag: str, size: int) -> ByteRange | None:
    """Return the requested range; the whole package by default, None for a range beyond the end.

    `If-Range` with another ETag (compared strongly) and several ranges get the whole package, as the RFC allows.
    """
    whole = ByteRange(0, size)
    match = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if match is None or request.method != "GET" or request.headers.get("If-Range", etag) != etag:
        return whole
    first, last = match.groups()
    if not first and not last:
        return whole
    if not first:
        return ByteRange(max(0, size - int(last)), size) if int(last) and size else None
    if last and int(last) < int(first):
        return whole
    if int(first) >= size:
        return None
    return ByteRange(int(first), min(int(last) + 1, size) if last else size)


def not_modified(request: web.BaseRequest, etag: str) -> bool:
    """True if the client already has this package (`If-None-Match`)."""
    given = request.headers.get("If-None-Match", "")
    return given.strip() == "*" or etag in (each.strip().removeprefix("W/") for each in given.split(","))
