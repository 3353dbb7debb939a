"""OCI manifests: the layers of an image, or an index's images by machine.

Docker's media types (version 2) and those of OCI mean the same. A document is classified by its content and not by
its header's media type alone: one that is an image and an index at once is refused, because two programs could
read it differently.

An absent platform excludes nothing: tools that append layers or join images write none. The agent's
own library then shows the machine that it is for, when it is unpacked.
"""

from __future__ import annotations

import platform
import re
from typing import Final

import msgspec

from oneagent.common import foreign_json, typed_json, unpack
from oneagent.common.oci import reference

MAX_BYTES: Final = 4 << 20
"""Size of a manifest that every registry has to accept, and most accept no more (distribution specification)."""
MAX_LAYERS: Final = 128
_MAX_CANDIDATES: Final = 8
"""Images of an index whose configuration is read, one after the other, to find that of this machine."""
_MAX_SIZE: Final = 1 << 50
"""More than any build tool makes: overlay file systems end at about as many."""

TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIGS: Final = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYER: Final = re.compile(
    r"application/vnd\.(oci\.image\.layer\.v1\.tar(\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs\.diff\.tar(\.gzip|\.zstd)?)"
)
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}
_PLAIN_VARIANTS: Final = {"amd64": ("", "v1"), "arm64": ("", "v8")}
"""Variants that every machine of the architecture has; `v3` of amd64 needs a newer processor."""


class Platform(msgspec.Struct, frozen=True):
    """Parts that are absent are empty or null."""

    architecture: str | None = ""
    os: str | None = ""
    variant: str | None = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @property
    def is_complete(self) -> bool:
        return bool(self.os and self.architecture)

    def may_run_on(self, machine: str) -> bool:
        """Return True if no part excludes Linux on a machine, as `platform.machine()` calls it."""
        architecture = _MACHINES.get(machine, machine)
        return (
            (self.os or "linux") == "linux"
            and (self.architecture or architecture) == architecture
            and (self.variant or "") in _PLAIN_VARIANTS.get(architecture, ("",))
        )


class Descriptor(msgspec.Struct, frozen=True):
    """A reference to content, by its digest."""

    digest: str
    size: int
    mediaType: str = ""
    platform: Platform | None = None

    @property
    def names_platform(self) -> bool:
        return self.platform is not None and self.platform.is_complete


class Manifest(msgspec.Struct, frozen=True):
    """An image (`layers`, `config`) or an index (`manifests`)."""

    schemaVersion: int = 0
    mediaType: str = ""
    manifests: list[Descriptor] | None = None
    layers: list[Descriptor] | None = None
    config: Descriptor | None = None


def parse(body: bytes, where: str) -> Manifest:
    """Parse an image's manifest or an index; `PackageError` if it is neither."""
    try:
        manifest = foreign_json.decode(body, Manifest)
    except foreign_json.DocumentError as error:
        raise unpack.CorruptPackageError(f"{where}: not a manifest: {error}") from error
    if manifest.schemaVersion != 2:
        raise unpack.UnsupportedPackageError(f"{where}: a manifest of version {manifest.schemaVersion}: 2 is needed")
    if (manifest.manifests is None) == (manifest.layers is None):
        raise unpack.CorruptPackageError(f"{where}: must be either an image or an index of images")
    for descriptor in (
        *(manifest.manifests or ()),
        *(manifest.layers or ()),
        *((manifest.config,) if manifest.config else ()),
    ):
        if not reference.DIGEST.fullmatch(descriptor.digest) or not 0 <= descriptor.size <= _MAX_SIZE:
            raise unpack.UnsupportedPackageError(
                f"{where}: refers to {descriptor.digest[:80]!r} of {descriptor.size} bytes: "
                "sha256: and 64 hex digits are needed"
            )
    return manifest


def choose_image(index: Manifest, where: str, machine: str | None = None) -> Descriptor:
    """Return the image of an index for a machine, by default this one: the first of `choose_images`."""
    return choose_images(index, where, machine)[0]


def choose_images(index: Manifest, where: str, machine: str | None = None) -> list[Descriptor]:
    """Return the image of an index for a machine, by default this one; all that may be, if none names its platform."""
    machine = machine or platform.machine()
    listed = [entry for entry in index.manifests or () if not (entry.platform and entry.platform.os == "unknown")]
    possible = [entry for entry in listed if (entry.platform or Platform()).may_run_on(machine)]
    if exact := [entry for entry in possible if entry.names_platform]:
        return exact[:1]
    if possible:
        return possible[:_MAX_CANDIDATES]
    there = ", ".join(sorted({str(entry.platform) for entry in listed})) or "no platform"
    raise unpack.UnsupportedPackageError(f"{where}: has no image for linux on {machine}, only for {there}")


def check_config(body: bytes, where: str, machine: str | None = None) -> None:
    """Refuse an image whose configuration names another machine."""
    machine = machine or platform.machine()
    try:
        target = foreign_json.decode(body, Platform)
    except foreign_json.DocumentError as error:
        raise unpack.CorruptPackageError(f"{where}: not an image's configuration: {error}") from error
    if not target.may_run_on(machine):
        raise unpack.UnsupportedPackageError(f"{where}: is for {target}, this is linux on {machine}")


def config(image: Manifest) -> Descriptor | None:
    """Return the configuration with an image's platform; None for an artifact in the form of an image."""
    return image.config if image.config and image.config.mediaType in _CONFIGS else None


def layers(image: Manifest, where: str, limits: unpack.UnpackLimits) -> list[Descriptor]:
    """Return the image's layers, lowest first; refused if unreadable or too large."""
    listed = image.layers or []
    if not listed or len(listed) > MAX_LAYERS:
        raise unpack.UnsupportedPackageError(f"{where}: has {len(listed)} layers, 1 to {MAX_LAYERS} are supported")
    for layer in listed:
        if layer.mediaType and not _LAYER.fullmatch(layer.mediaType):
            raise unpack.UnsupportedPackageError(
                f"{where}: has a layer of the type {layer.mediaType[:100]!r}: tar, plain or by gzip or zstd, is read"
            )
    if sum(layer.size for layer in listed) > limits.unpacked_bytes:
        raise unpack.PackageTooLargeError(f"{where}: its layers have more than {limits.unpacked_bytes:,} bytes")
    return listed


typed_json.prepare(Manifest, Platform)
