"""Validation of CSI requests: no field is trusted before it has passed here.

csi-sanity and callers rely on the order of the checks: identifiers first, then the capability, then the volume
context. Every refusal names the field, its value and the remedy.
Every field has a longest value, and a refusal quotes only the beginning of one. See also `attribute_validation`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from oneagent.common.agents.pod_files import PodFiles
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.injection import volume_attributes
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.data_dir import TargetPath, VolumeId
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.server import attribute_validation
from oneagent.csi_driver.server.attribute_validation import Mode, optional, quote, refuse_longer, required
from oneagent.csi_driver.server.errors import InvalidRequestError

POD_NAME: Final = "csi.storage.k8s.io/pod.name"
POD_NAMESPACE: Final = "csi.storage.k8s.io/pod.namespace"
POD_UID: Final = "csi.storage.k8s.io/pod.uid"

# SELinux labels that kubelet passes for CSIDrivers with seLinuxMount. Any other option of overlay (lowerdir above
# all) would let the caller choose the layers. A comma is allowed in quotes only, and the text after it must not look
# like an option: without SELinux the kernel ignores the quotes.
_CONTEXT: Final = re.compile(r'(?:|fs|def|root)context=(?:"[\w.:,-]+"|[\w.:-]+)', re.ASCII)
_FLAGS: Final = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "noatime": syscalls.MS_NOATIME,
    "nodiratime": syscalls.MS_NODIRATIME,
    "relatime": syscalls.MS_RELATIME,
    "rw": 0,
}
_MAX_MOUNT_FLAGS: Final = 64
_MAX_PATH: Final = 4095
_MAX_NAME_BYTES: Final = 255
_MAX_VOLUME_ID: Final = 129
"""One more than is valid: the rest need not be looked at."""


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """A NodePublishVolume request. `mount_flags` and `mount_options` go to mount(2) as they are."""

    volume: VolumeId
    target: TargetPath
    mode: Mode
    dynakube: DynaKubeName
    files: PodFiles
    """Without the node's name and what the node knows of the DynaKube"""
    read_only: bool
    mount_flags: int
    mount_options: tuple[str, ...]
    retry_timeout_seconds: float | None = None
    never_empty: bool = False
    """The pod waits for its agent and gets no empty view (`failurePolicy: fail`)."""
    user_namespace: bool = False

    @property
    def pod_name(self) -> str:
        return self.files.pod.pod_name

    @property
    def pod_namespace(self) -> str:
        return self.files.pod.namespace

    @property
    def pod_uid(self) -> str:
        return self.files.pod.pod_uid


def volume_id(value: str) -> VolumeId:
    if not value:
        raise InvalidRequestError("volume_id", "is missing in the request")
    try:
        return VolumeId(data_dir.component(value[:_MAX_VOLUME_ID], "volume id"))
    except data_dir.UnsafeNameError as error:
        raise InvalidRequestError("volume_id", str(error)) from error


def target_path(value: str, root: str) -> TargetPath:
    """Return a path strictly below `root`, without `..` or `//`; opening it refuses symlinks."""
    if not value:
        raise InvalidRequestError("target_path", "is missing in the request")
    refuse_longer("target_path", value, _MAX_PATH)
    is_plain = value.isprintable() and os.path.normpath(value) == value and value.startswith(f"{root}/")
    if not is_plain or max(len(part.encode()) for part in value.split("/")) > _MAX_NAME_BYTES:
        raise InvalidRequestError(
            "target_path",
            f"{quote(value)} is not a plain path below {root!r}; set --target-root to kubelet's root directory",
        )
    return TargetPath(value)


def volume_path(value: str, root: str) -> TargetPath:
    """Return the path for statistics; empty for one outside `root`, where no volume can be."""
    if not value:
        raise InvalidRequestError("volume_path", "is missing in the request")
    refuse_longer("volume_path", value, _MAX_PATH)
    return TargetPath(value if value.startswith(root + "/") else "")


def publish(request: csi_pb2.NodePublishVolumeRequest, root: str) -> PublishRequest:
    """Validate the request and convert it; `InvalidRequestError` names the field at fault."""
    volume = volume_id(request.volume_id)
    target = target_path(request.target_path, root)
    flags, options = _capability(request)
    context = request.volume_context
    if not context:
        raise InvalidRequestError(
            "volume_context", "is missing in the request; the CSIDriver needs podInfoOnMount: true"
        )
    remedy = "the CSIDriver needs podInfoOnMount: true"
    name, namespace = required(context, POD_NAME, remedy), required(context, POD_NAMESPACE, remedy)
    return PublishRequest(
        volume=volume,
        target=target,
        mode=attribute_validation.mode(context),
        dynakube=attribute_validation.dynakube(context),
        retry_timeout_seconds=attribute_validation.retry_timeout(context),
        files=attribute_validation.pod_files(context, name=name, namespace=namespace, uid=optional(context, POD_UID)),
        never_empty=attribute_validation.is_fail(context),
        user_namespace=attribute_validation.boolean(context, volume_attributes.USER_NAMESPACE),
        read_only=request.readonly,
        mount_flags=flags,
        mount_options=options,
    )


def _capability(request: csi_pb2.NodePublishVolumeRequest) -> tuple[int, tuple[str, ...]]:
    if not request.HasField("volume_capability"):
        raise InvalidRequestError("volume_capability", "is missing in the request")
    capability = request.volume_capability
    if capability.HasField("block"):
        raise InvalidRequestError("volume_capability", "block access is not supported; use mount access")
    if not capability.HasField("mount"):
        raise InvalidRequestError("volume_capability", "has no access type; use mount access")
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    options = []
    given = capability.mount.mount_flags
    if len(given) > _MAX_MOUNT_FLAGS:
        raise InvalidRequestError(
            "volume_capability.mount.mount_flags",
            f"has {len(given)} entries, and at most {_MAX_MOUNT_FLAGS} are accepted",
        )
    for flag in given:
        if flag in _FLAGS:
            flags |= _FLAGS[flag]
        elif len(flag) <= _MAX_PATH and _CONTEXT.fullmatch(flag):
            options.append(flag)
        else:
            raise InvalidRequestError(
                "volume_capability.mount.mount_flags",
                f"{quote(flag)} is not allowed; allowed are {', '.join(_FLAGS)} and SELinux's context options",
            )
    return flags, tuple(options)
