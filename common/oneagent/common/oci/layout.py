"""Images in a directory of this machine: the OCI image layout (image specification 1.1, "image-layout.md").

    oci-layout          marks the directory as a layout
    index.json          the images, with their names
    blobs/sha256/HEX    manifests, configurations and layers

Nothing is written here, and no link is followed: everything below the directory has to be a directory or a regular
file, so a layout cannot refer to anything else on the node. Manifests are hashed before they are used; layers are
hashed by their reader.

Signatures are where `cosign save` puts them, beside the image with the annotation `kind`, or have the names that
they have in a registry; bundles are listed in the index by their type.

    PackageError            the layout is not as specified, or has no such image
    UnusableFileError       a part of it is missing, or cannot be read
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from oneagent.common import foreign_json, typed_json, unpack
from oneagent.common.http import download
from oneagent.common.oci import manifest as oci_manifest
from oneagent.common.oci import reference

INDEX: Final = "index.json"
MARKER: Final = "oci-layout"

_NAME: Final = "org.opencontainers.image.ref.name"
_KIND: Final = "kind"
_COSIGN: Final = "dev.cosignproject.cosign/"
_SIGNATURES: Final = f"{_COSIGN}sigs"
_NO_IMAGES: Final = (_SIGNATURES, f"{_COSIGN}atts", f"{_COSIGN}sboms")
_BESIDE: Final = (".sig", ".att", ".sbom")
"""Suffixes of the names that cosign gives to what is stored beside an image."""
_SHOWN: Final = 10
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_T = TypeVar("_T")


class _Marker(msgspec.Struct):
    imageLayoutVersion: str


class _Entry(msgspec.Struct):
    digest: str
    size: int
    mediaType: str = ""
    artifactType: str = ""
    annotations: dict[str, str] | None = None

    @property
    def name(self) -> str:
        return (self.annotations or {}).get(_NAME, "")

    @property
    def kind(self) -> str:
        return (self.annotations or {}).get(_KIND, "")

    @property
    def is_image(self) -> bool:
        other = self.artifactType or self.kind in _NO_IMAGES
        return not (other or (self.name.startswith("sha256-") and self.name.endswith(_BESIDE)))


class _Index(msgspec.Struct):
    schemaVersion: int = 0
    manifests: list[_Entry] = []


class Layout:
    """The images of a layout. Every call reads it again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held open."""

    @property
    def host(self) -> str:
        return str(self._path)

    def resolve_tag(self, tag: str) -> str:
        """Return the digest of the image with this name, or of the only one. Its manifest exists."""
        images = [entry for entry in self._entries() if entry.is_image]
        # The same image may be listed twice, once with a name.
        by_digest = {entry.digest: entry for entry in images if not tag or entry.name == tag}
        if len(by_digest) != 1:
            raise unpack.UnsupportedPackageError(f"{self._path}: {_describe_choice(images, tag, len(by_digest))}")
        ((digest, entry),) = by_digest.items()
        if len(body := self.get_manifest(digest)) != entry.size:
            raise unpack.CorruptPackageError(f"{self._path}: {digest} has {len(body)} bytes, {INDEX} says {entry.size}")
        return digest

    def get_manifest(self, digest: str) -> bytes:
        body = self._read("blobs", *_blob_path(digest))
        if (actual := f"sha256:{hashlib.sha256(body).hexdigest()}") != digest:
            raise unpack.CorruptPackageError(f"{self._path_of(digest)}: its digest is {actual}")
        return body

    def find_by_tag(self, tag: str) -> list[bytes]:
        """Signatures by `cosign save` have no names: their payloads name the image."""
        unnamed = _SIGNATURES if tag.endswith(".sig") else None
        return [
            self.get_manifest(entry.digest)
            for entry in self._entries()
            if entry.name == tag or (unnamed and entry.kind == unnamed)
        ]

    def list_referrers(self, digest: str, kind: str) -> bytes | None:
        listed = [
            {"digest": entry.digest, "artifactType": kind} for entry in self._entries() if entry.artifactType == kind
        ]
        return msgspec.json.encode({"manifests": listed}) if listed else None

    def get_config(self, descriptor: oci_manifest.Descriptor) -> bytes:
        body = self.get_manifest(descriptor.digest)
        if len(body) != descriptor.size:
            raise unpack.CorruptPackageError(
                f"{self._path_of(descriptor.digest)}: has {len(body)} bytes, its manifest says {descriptor.size}"
            )
        return body

    def blob_source(self, digest: str) -> download.LocalFile:
        """Return a blob in place, not yet hashed."""
        os.close(self._open("blobs", *_blob_path(digest)))
        return download.LocalFile(self._path_of(digest))

    def _entries(self) -> list[_Entry]:
        marker = _decode(self._read(MARKER), _Marker, self._path / MARKER)
        if not marker.imageLayoutVersion.startswith("1."):
            raise unpack.UnsupportedPackageError(
                f"{self._path / MARKER}: is of version {marker.imageLayoutVersion[:20]!r}, 1 is needed"
            )
        index = _decode(self._read(INDEX), _Index, self._path / INDEX)
        if index.schemaVersion != 2:
            raise unpack.UnsupportedPackageError(
                f"{self._path / INDEX}: is of version {index.schemaVersion}, 2 is needed"
            )
        return [_check_entry(entry, self._path) for entry in index.manifests]

    def _path_of(self, digest: str) -> Path:
        return self._path.joinpath("blobs", *_blob_path(digest))

    def _read(self, *parts: str) -> bytes:
        """Read a small file."""
        with os.fdopen(self._open(*parts), "rb", buffering=0) as file:
            try:
                body = file.read(oci_manifest.MAX_BYTES + 1) or b""
            except OSError as error:
                raise download.UnusableFileError(f"{self._path.joinpath(*parts)}: {error.strerror}") from error
        if len(body) > oci_manifest.MAX_BYTES:
            raise unpack.PackageTooLargeError(
                f"{self._path.joinpath(*parts)}: has more than {oci_manifest.MAX_BYTES:,} bytes, the most that is read"
            )
        return body

    def _open(self, *parts: str) -> int:
        """Open a regular file below the directory, without a link on the way."""
        here = self._path
        try:
            descriptor = os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for number, part in enumerate(parts, 1):
                here = here / part
                above = descriptor
                try:
                    kind = os.O_DIRECTORY if number < len(parts) else 0
                    descriptor = os.open(part, _FLAGS | kind, dir_fd=above)
                finally:
                    os.close(above)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
        except OSError as error:
            if here.is_symlink() and here != self._path:
                raise unpack.UnsafePackageError(f"{here}: is a link, which is not followed") from error
            raise download.UnusableFileError(f"{here}: {error.strerror}") from error
        os.close(descriptor)
        raise download.UnusableFileError(f"{here}: not a regular file")


def index_fingerprint(path: Path) -> str:
    """Return a text that changes whenever the index does; empty while there is no index."""
    try:
        status = os.stat(path / INDEX, follow_symlinks=False)
    except OSError:
        return ""
    return f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _describe_choice(images: list[_Entry], tag: str, count: int) -> str:
    names = [entry.name[:100] or "one without a name" for entry in images]
    there = ", ".join(names[:_SHOWN]) + (" and more" if len(names) > _SHOWN else "") or "no image"
    if tag:
        return f"has {'no image' if not count else f'{count} images'} with the name {tag!r}, but {there}"
    if not images:
        return "has no image"
    return f"has {count} images, {there}: choose one by :NAME or @sha256:…"


def _check_entry(entry: _Entry, path: Path) -> _Entry:
    if not reference.DIGEST.fullmatch(entry.digest) or entry.size < 0:
        raise unpack.UnsupportedPackageError(
            f"{path / INDEX}: refers to {entry.digest[:80]!r} of {entry.size} bytes: "
            "sha256: and 64 hex digits are needed"
        )
    return entry


def _blob_path(digest: str) -> tuple[str, str]:
    assert reference.DIGEST.fullmatch(digest), "it becomes a path"
    algorithm, _, hexadecimal = digest.partition(":")
    return algorithm, hexadecimal


def _decode(body: bytes, expected: type[_T], where: Path) -> _T:
    try:
        return foreign_json.decode(body, expected)
    except foreign_json.DocumentError as error:
        raise unpack.CorruptPackageError(f"{where}: not the documented form: {error}") from error


typed_json.prepare(_Marker, _Index)
