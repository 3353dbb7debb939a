"""NodeUnpublishVolume: undoes a publish in any state, and is right to be called again."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from oneagent.common import logs
from oneagent.csi_driver.data_dir import DataDir, TargetPath, VolumeId
from oneagent.csi_driver.metadata.volumes import VolumeRepository
from oneagent.csi_driver.server.overlay import OverlayMounter
from oneagent.csi_driver.server.publish import Publisher

log = logging.getLogger(__name__)

_CSI_TARGET: Final = re.compile(r"/volumes/kubernetes\.io~csi/[^/]+/mount$")
"""The end of the target path that kubelet chooses for each CSI volume."""


class Unpublisher:
    """Thread-safe: any number of volumes at once."""

    def __init__(
        self,
        publisher: Publisher,
        data: DataDir,
        mounts: OverlayMounter,
        volumes: VolumeRepository,
        *,
        failpoint: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """An unpublish ends a call of `publisher` that waits for the same volume."""
        self._calls = publisher.calls
        self._view_mounter = publisher.view_mounter
        self._existing_mounts = publisher.existing_mounts
        self._data = data
        self._mounts = mounts
        self._volumes = volumes
        self._failpoint = failpoint

    def unpublish(self, volume: VolumeId, path: TargetPath) -> None:
        """Undo a publish in any state; unknown volumes are OK. `InternalError` changes nothing."""
        with (
            self._calls.hold(volume, "an unpublish", cancel_other=True),
            self._calls.hold(path, "an unpublish"),
            self._mounts.open_target(path) as target,
        ):
            record = self._volumes.get(volume)
            is_recorded = record is not None and record.target == path
            if not is_recorded and target.is_mounted() and not self._existing_mounts.is_own(target, volume):
                log.warning("foreign mount left in place", extra=logs.fields(volume=volume, target=path))
                return
            # For a volume that the database lost, the pod's files in an empty view are removed, too.
            is_ours = is_recorded or _CSI_TARGET.search(path) is not None
            target.unmount_and_remove(self._failpoint, trash_entry=self._data.trash_entry(volume) if is_ours else "")
            self._failpoint("target removed")
            if record is not None and record.target != path:
                return
            self._view_mounter.discard(volume)
            self._failpoint("upper discarded")
            self._volumes.drop(volume)
