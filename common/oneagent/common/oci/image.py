"""An image, from the first host that has it or from a layout: digest, manifest for this machine, layers.

A failing mirror is logged in one line, and the next host is asked. Only errors of the last host, the image's own
registry, are raised.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, TypeVar

from oneagent.common import logs, unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.oci import auth, hosts, layout, manifest, pull_secret, repository
from oneagent.common.oci.manifest import Descriptor, Manifest
from oneagent.common.oci.reference import ImageName, LayoutReference

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ImageSource(Protocol):
    """Manifests and blobs of an image: a registry's host or mirror (`repository`), or a directory (`layout`).

    For one thread at a time; close it after use. All content has the requested digest.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def host(self) -> str:
        """Name for messages."""
        ...

    def resolve_tag(self, tag: str) -> str:
        """Return the digest that a tag points to now."""
        ...

    def get_manifest(self, digest: str) -> bytes:
        """Return the manifest with this digest."""
        ...

    def find_by_tag(self, tag: str) -> list[bytes]:
        """Return the manifests that a tag points to now; empty if the tag does not exist."""
        ...

    def list_referrers(self, digest: str, kind: str) -> bytes | None:
        """Return the list of a manifest's referrers of this kind; None if the host keeps no such lists."""
        ...

    def get_config(self, descriptor: Descriptor) -> bytes:
        """Return a small blob."""
        ...

    def blob_source(self, digest: str) -> download.Source:
        """Return the download source of a blob."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """Credentials, rules and HTTP settings for registries."""

    keyring: pull_secret.Keyring = field(default_factory=pull_secret.Keyring, repr=False)
    rules: hosts.Registries = field(default_factory=hosts.Registries)
    http: http_client.HttpSettings = field(default_factory=http_client.HttpSettings)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image, and its download sources in their order."""

    digest: str
    size: int
    sources: tuple[download.Source, ...]

    @property
    def sha256(self) -> str:
        return self.digest.removeprefix("sha256:")


@contextlib.contextmanager
def open_sources(image: ImageName, access: Access) -> Iterator[list[ImageSource]]:
    """Open the repository of an image on each host that may have it, its own registry last; or its layout.

    `InvalidSettingsError` if the image is not allowed.
    """
    if isinstance(image, LayoutReference):
        yield [layout.Layout(image.path)]
        return
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_open_repository(endpoint, access)) for endpoint in access.rules.endpoints(image)]


class Image:
    """An image in registries or in a layout. For one thread at a time; close it after use.

    `InvalidSettingsError` if the image is not allowed.
    """

    def __init__(self, reference: ImageName, access: Access) -> None:
        self._reference = reference
        with contextlib.ExitStack() as stack:
            self._sources = stack.enter_context(open_sources(reference, access))
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def digest(self) -> str:
        """Return the reference's digest, or the one that its tag points to."""
        tag = self._reference.tag
        return self._reference.digest or self._try_each(lambda source: source.resolve_tag(tag))

    def layers(self, machine: str | None = None, limits: unpack.UnpackLimits | None = None) -> list[Layer]:
        """Return the layers for a machine, by default this one, lowest first.

        Raises `HttpError`, `PackageError`, or `UnusableFileError` of a layout.
        """
        limits = limits or unpack.UnpackLimits()
        parsed = manifest.parse(self._fetch_manifest(self.digest()), self._reference.name)
        if parsed.manifests is None:
            listed = self._list_layers(parsed, machine, limits)
        else:
            listed = self._list_layers_of_index(parsed, machine, limits)
        return [
            Layer(layer.digest, layer.size, tuple(source.blob_source(layer.digest) for source in self._sources))
            for layer in listed
        ]

    def _list_layers_of_index(
        self, index: Manifest, machine: str | None, limits: unpack.UnpackLimits
    ) -> list[Descriptor]:
        """Return the layers of the image for a machine; of the first that may be for it, if none names a platform."""
        *others, last = manifest.choose_images(index, self._reference.name, machine)
        for other in others:
            with contextlib.suppress(unpack.PackageError):
                return self._list_layers_of_entry(other, machine, limits)
        return self._list_layers_of_entry(last, machine, limits)

    def _list_layers_of_entry(
        self, entry: Descriptor, machine: str | None, limits: unpack.UnpackLimits
    ) -> list[Descriptor]:
        where = self._reference.name
        image = manifest.parse(self._fetch_manifest(entry.digest), where)
        if image.layers is None:
            raise unpack.UnsupportedPackageError(
                f"{where}: its index names another index as the image for this machine"
            )
        if entry.names_platform:
            return manifest.layers(image, where, limits)
        return self._list_layers(image, machine, limits)

    def _list_layers(self, image: Manifest, machine: str | None, limits: unpack.UnpackLimits) -> list[Descriptor]:
        """Return the layers of an image, unless its configuration names another machine."""
        where = self._reference.name
        if config := manifest.config(image):
            body = self._try_each(lambda source: source.get_config(config))
            manifest.check_config(body, where, machine)
        return manifest.layers(image, where, limits)

    def _fetch_manifest(self, digest: str) -> bytes:
        return self._try_each(lambda source: source.get_manifest(digest))

    def _try_each(self, request: Callable[[ImageSource], _T]) -> _T:
        *mirrors, own = self._sources
        for mirror in mirrors:
            try:
                return request(mirror)
            except errors.HttpError as error:
                details = logs.fields(image=self._reference.name, mirror=mirror.host, reason=error)
                log.warning("image mirror failed, trying the next host", extra=details)
        return request(own)


def _open_repository(endpoint: hosts.Endpoint, access: Access) -> repository.Repository:
    credentials = access.keyring.find(endpoint.registry, endpoint.path)
    return repository.Repository(endpoint, auth.Login(endpoint, credentials), access.http)
