"""An image, from the first host that has it or from a folder: its digest, its manifest for this machine, its layers.

A mirror is of use or it is not: whatever is wrong with it is said in one line, and the next host is asked. Only
what the last one, the image's own registry, says is an error.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from oneagent.common import logs, unpack
from oneagent.common.http import client as http_client
from oneagent.common.http import download, errors
from oneagent.common.oci import auth, hosts, layout, manifest, pull_secret, repository
from oneagent.common.oci import reference as oci_reference
from oneagent.common.oci.holders import ImageSource
from oneagent.common.oci.image_directories import ImageFolder

log = logging.getLogger(__name__)
_T = TypeVar("_T")

ImageName = oci_reference.Reference | ImageFolder
"""What says which image is meant."""


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are reached, and as whom."""

    keyring: pull_secret.Keyring = field(default_factory=pull_secret.Keyring, repr=False)
    rules: hosts.Registries = field(default_factory=hosts.Registries)
    http: http_client.HttpSettings = field(default_factory=http_client.HttpSettings)


@dataclass(frozen=True, slots=True)
class Layer:
    """A part of an image, and where it may be in the order in which that is to be asked."""

    digest: str
    size: int
    sources: tuple[download.Source, ...]

    @property
    def sha256(self) -> str:
        return self.digest.removeprefix("sha256:")


@contextlib.contextmanager
def holders(image: ImageName, access: Access) -> Iterator[list[ImageSource]]:
    """The repository of an image on each host that may have it, its own registry last; or its folder.

    `InvalidSettingsError` if it may not be fetched.
    """
    if isinstance(image, ImageFolder):
        yield [layout.Folder(image.path)]
        return
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_repository(endpoint, access)) for endpoint in access.rules.endpoints(image)]


class Image:
    """An image as registries or a folder have it. For one thread at a time; close it after use.

    `InvalidSettingsError` if it may not be fetched.
    """

    def __init__(self, reference: ImageName, access: Access) -> None:
        self._reference = reference
        with contextlib.ExitStack() as stack:
            self._holders = stack.enter_context(holders(reference, access))
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def digest(self) -> str:
        """What the reference's tag stands for, if it has no digest."""
        tag = self._reference.tag
        return self._reference.digest or self._first(lambda holder: holder.resolve(tag))

    def layers(self, machine: str | None = None, limits: unpack.Limits | None = None) -> list[Layer]:
        """The layers for a machine, by default this one, lowest first.

        `HttpError`, `packages.PackageError`, or `downloads.UnusableFileError` of a folder.
        """
        digest, where = self.digest(), self._reference.name
        found = manifest.parse(self._manifest(digest), where)
        if found.manifests is not None:
            chosen = manifest.choose(found, where, machine)
            found = manifest.parse(self._manifest(chosen.digest), where)
            if found.layers is None:
                raise unpack.UnsupportedPackageError(f"{where}: lists a list of images as the one for this machine")
        elif config := manifest.config(found):
            body = self._first(lambda holder: holder.config(config))
            manifest.check_config(body, where, machine)
        return [
            Layer(layer.digest, layer.size, tuple(holder.blob(layer.digest) for holder in self._holders))
            for layer in manifest.layers(found, where, limits or unpack.Limits())
        ]

    def _manifest(self, digest: str) -> bytes:
        return self._first(lambda holder: holder.manifest(digest))

    def _first(self, ask: Callable[[ImageSource], _T]) -> _T:
        *mirrors, own = self._holders
        for mirror in mirrors:
            try:
                return ask(mirror)
            except errors.HttpError as fault:
                facts = logs.facts(image=self._reference.name, mirror=mirror.host, reason=fault)
                log.warning("a registry's mirror is of no use, the next one is asked", extra=facts)
        return ask(own)


def _repository(endpoint: hosts.Endpoint, access: Access) -> repository.Repository:
    who = access.keyring.find(endpoint.registry, endpoint.path)
    return repository.Repository(endpoint, auth.Login(endpoint, who), access.http)
