"""Signers of images, learned from registries once and kept on the disk.

A signature stays true. So a registry that is down, or that thousands of nodes poll, stops no image that was verified
before. The keys that count are those of the DynaKube at that moment: a key that it no longer has approves nothing. Each
DynaKube decides for itself, because a version may be in the store for one that requires no signature.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from oneagent.common import logs
from oneagent.common.identifiers import Version
from oneagent.common.oci import image as oci_image
from oneagent.common.oci.public_keys import PublicKey
from oneagent.common.oci.reference import ImageName
from oneagent.common.tenant import image_resolver
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.store import store_key

log = logging.getLogger(__name__)


class SignatureCache:
    """A `SignatureStore` on the disk. Thread-safe."""

    def __init__(self, data: DataDir, retained: Collection[Version]) -> None:
        """`retained` are the stored and the desired versions; files of others are deleted."""
        self._data = data
        self._signers: dict[Version, frozenset[str]] = {}
        for file in data.signatures.iterdir():
            if file.name in retained:
                self._signers[Version(file.name)] = frozenset(file.read_text(errors="replace").split())
            else:
                file.unlink()

    def is_signed(self, digest: str, fingerprints: Collection[str]) -> bool:
        version = store_key.of_image(digest)
        return not self._signers.get(version, frozenset()).isdisjoint(fingerprints)

    def verify(self, image: ImageName, access: oci_image.Access, keys: Sequence[PublicKey]) -> None:
        signer = image_resolver.find_signer(image, access, keys)
        version = store_key.of_image(image.digest)
        signers = self._signers.get(version, frozenset()) | {signer}
        self._signers[version] = signers
        log.info("image signature verified", extra=logs.fields(image=image, key=signer))
        file = self._data.signature(version)
        scratch = file.with_name(f".{file.name}")
        try:
            scratch.write_text("".join(f"{fingerprint}\n" for fingerprint in sorted(signers)))
            scratch.replace(file)
        except OSError as error:
            # The next start verifies it again, no more.
            log.warning("image signature not saved", extra=logs.fields(version=version, reason=error))
