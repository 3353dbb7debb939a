"""buildah with a store of its own: it keeps the layers of earlier builds, and nothing outside its folder.

Each command runs in a mount namespace of its own, so that one which is killed leaves no mount behind. Layers are
overlays where the folder's file system can hold them. Elsewhere they are copies, which takes longer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.cluster import commands

PROGRAMS: Final = {"buildah": "buildah"}

# buildah has one file that no option moves, below a folder of the machine: a cache, which may as well be lost.
_OWN_MOUNTS: Final = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'mkdir -p /var/lib/containers && mount -t tmpfs tmpfs /var/lib/containers && exec "$@"',
    "sh",
)


class Store:
    """Images by name. One process at a time uses it."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log
        self._temporary, self._state = folder / "tmp", folder / "run"
        # The state that a killed command left says that mounts are there which are gone.
        for old in (self._temporary, self._state):
            shutil.rmtree(old, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self._settings = folder / "containers.conf"
        self._settings.write_text(f'[network]\nnetwork_config_dir = "{folder / "networks"}"\n')
        self._driver = "overlay"
        try:
            self._buildah("info")
        except commands.CommandFailedError:
            self._driver = "vfs"
        # Containers of builds that were killed hold their layers.
        self._buildah("rm", "--all")

    def load(self, archive: Path) -> None:
        """Have the image of an archive, under the name that is in there."""
        self._buildah("pull", f"docker-archive:{archive}")

    def build(
        self, reference: str, context: Path, dockerfile: Path, arguments: Mapping[str, str], more: Sequence[str] = ()
    ) -> None:
        """Build an image of the context and of images that are here; nothing is pulled."""
        self._buildah(
            *("build", "--isolation=chroot", "--layers", "--force-rm", "--pull-never", f"--tag={reference}"),
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *(*more, f"--file={dockerfile}", str(context)),
        )

    def save(self, reference: str, archive: Path) -> None:
        self._buildah("push", reference, f"docker-archive:{archive}:{reference}")

    def lay(self, reference: str, folder: Path, name: str) -> None:
        """Write the image to an OCI image layout, under this name."""
        self._buildah("push", reference, f"oci:{folder}:{name}")

    def prune(self) -> None:
        """Remove the layers that no image with a name is made of any more."""
        self._buildah("rmi", "--prune")

    def _buildah(self, *arguments: str) -> None:
        place = (f"--root={self._folder / self._driver}", f"--runroot={self._state}")
        command = (*_OWN_MOUNTS, "buildah", *place, f"--storage-driver={self._driver}", *arguments)
        environment = {**os.environ, "CONTAINERS_CONF": str(self._settings), "TMPDIR": str(self._temporary)}
        commands.run(f"buildah {arguments[0]}", command, self._log, environment)
