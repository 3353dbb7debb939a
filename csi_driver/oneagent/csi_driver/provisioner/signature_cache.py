"""Which versions are signed, and with which keys: learned from registries once, and kept on the disk.

That a key has signed a digest stays true, so a registry that is away, or one that is asked by thousands of nodes,
stops nothing that was found good before. What may be used is decided each time from the keys that a DynaKube wants
at that moment: a key that it no longer has approves nothing any more. It is decided for each DynaKube, as a version
may be in the store for another one that asks for no signature.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from oneagent.common import logs
from oneagent.common.identifiers import Version
from oneagent.common.oci import image as oci_image
from oneagent.common.oci import reference as oci_reference
from oneagent.common.oci.public_keys import PublicKey
from oneagent.csi_driver.data_dir import DataDir

log = logging.getLogger(__name__)


class SignatureCache:
    """Thread-safe. `kept` are the versions that are in the store or wanted; what is known of others is forgotten."""

    def __init__(self, folder: DataDir, kept: Collection[Version]) -> None:
        self._folder = folder
        self._signers: dict[Version, frozenset[str]] = {}
        for file in folder.signatures.iterdir():
            if file.name in kept:
                self._signers[Version(file.name)] = frozenset(file.read_text(errors="replace").split())
            else:
                file.unlink()

    def good(self, version: Version, wanted: Collection[str]) -> bool:
        """Whether a version was found to be signed with one of the keys of these fingerprints."""
        return not self._signers.get(version, frozenset()).isdisjoint(wanted)

    def ask(
        self, version: Version, image: oci_reference.ImageName, access: oci_image.Access, wanted: Sequence[PublicKey]
    ) -> None:
        """Ask the registry; `packages.UnsignedImageError`, `HttpError` or `InvalidSettingsError` if the version is not good then."""
        # The only place that needs cryptography, which costs some 8 MiB: most nodes never come here.
        from oneagent.common.oci import signatures

        signer = signatures.find_signer(image, access, wanted).fingerprint
        known = self._signers.get(version, frozenset()) | {signer}
        self._signers[version] = known
        log.info("an image's signature is good", extra=logs.facts(image=image, key=signer))
        file = self._folder.signature(version)
        fresh = file.with_name(f".{file.name}")
        try:
            fresh.write_text("".join(f"{fingerprint}\n" for fingerprint in sorted(known)))
            fresh.replace(file)
        except OSError as error:
            # It is asked for again after the next start, no more.
            log.warning("a signature can't be noted", extra=logs.facts(version=version, reason=error))
