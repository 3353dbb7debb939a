"""Validation of CSI requests: no field is trusted before it has passed here.

csi-sanity and callers rely on the order of the checks: identifiers first, then the capability, then the volume
context. Every refusal names the field, its value and the remedy.
Every field has a longest value, and a refusal quotes only the beginning of one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from oneagent.common import durations
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.proto.csi.v1 import csi_pb2
from oneagent.csi_driver import data_dir
from oneagent.csi_driver.data_dir import TargetPath, VolumeId
from oneagent.csi_driver.linux import syscalls
from oneagent.csi_driver.server.errors import InvalidRequestError

POD_NAME: Final = "csi.storage.k8s.io/pod.name"
POD_NAMESPACE: Final = "csi.storage.k8s.io/pod.namespace"
POD_UID: Final = "csi.storage.k8s.io/pod.uid"

_DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_CONTAINER: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
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
MAX_CONTAINERS: Final = 1000
MAX_CONTAINERS_BYTES: Final = 64 << 10
_MAX_MOUNT_FLAGS: Final = 64
_MAX_PATH: Final = 4095
_MAX_NAME_BYTES: Final = 255
_MAX_VOLUME_ID: Final = 129
"""One more than is valid: the rest need not be looked at."""
_MAX_QUOTED: Final = 100
_MAX_VALUE: Final = 253
"""Longest value of the volume context but `containers`: that of a name in Kubernetes."""


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """A NodePublishVolume request. `mount_flags` and `mount_options` go to mount(2) as they are."""

    volume: VolumeId
    target: TargetPath
    mode: Literal["app", "host"]
    dynakube: DynaKubeName
    pod_name: str
    pod_namespace: str
    pod_uid: str
    containers: tuple[str, ...]
    read_only: bool
    retry_timeout_seconds: float | None
    mount_flags: int
    mount_options: tuple[str, ...]


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
    _refuse_longer("target_path", value, _MAX_PATH)
    is_plain = value.isprintable() and os.path.normpath(value) == value and value.startswith(f"{root}/")
    if not is_plain or max(len(part.encode()) for part in value.split("/")) > _MAX_NAME_BYTES:
        raise InvalidRequestError(
            "target_path",
            f"{_quote(value)} is not a plain path below {root!r}; set --target-root to kubelet's root directory",
        )
    return TargetPath(value)


def volume_path(value: str, root: str) -> TargetPath:
    """Return the path for statistics; empty for one outside `root`, where no volume can be."""
    if not value:
        raise InvalidRequestError("volume_path", "is missing in the request")
    _refuse_longer("volume_path", value, _MAX_PATH)
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
    return PublishRequest(
        volume=volume,
        target=target,
        pod_name=_required(context, POD_NAME, "the CSIDriver needs podInfoOnMount: true"),
        pod_namespace=_required(context, POD_NAMESPACE, "the CSIDriver needs podInfoOnMount: true"),
        mode=_mode(context),
        dynakube=_dynakube(context),
        retry_timeout_seconds=_retry_timeout(context),
        containers=_containers(context),
        pod_uid=_optional(context, POD_UID),
        read_only=request.readonly,
        mount_flags=flags,
        mount_options=options,
    )


def _quote(value: str) -> str:
    """Return the beginning of a value for a message, with control characters escaped."""
    return repr(value if len(value) <= _MAX_QUOTED else f"{value[:_MAX_QUOTED]}…")


def _refuse_longer(field: str, value: str, characters: int) -> None:
    if len(value) > characters:
        raise InvalidRequestError(field, f"has {len(value)} characters, and at most {characters} are accepted")


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
                f"{_quote(flag)} is not allowed; allowed are {', '.join(_FLAGS)} and SELinux's context options",
            )
    return flags, tuple(options)


def _optional(context: Mapping[str, str], key: str) -> str:
    value = context.get(key, "")
    _refuse_longer(f"volume_context[{key}]", value, _MAX_VALUE)
    if not value.isprintable():
        raise InvalidRequestError(f"volume_context[{key}]", f"{_quote(value)} contains a control character")
    return value


def _required(context: Mapping[str, str], key: str, remedy: str) -> str:
    value = _optional(context, key)
    if not value:
        raise InvalidRequestError(f"volume_context[{key}]", f"is missing in the request; {remedy}")
    return value


def _mode(context: Mapping[str, str]) -> Literal["app", "host"]:
    mode = _required(context, "mode", "set volumeAttributes.mode to app or host")
    match mode:
        case "app" | "host":
            return mode
        case _:
            raise InvalidRequestError("volume_context[mode]", f"{mode!r} is unknown; use app or host")


def _dynakube(context: Mapping[str, str]) -> DynaKubeName:
    name = _required(context, "dynakube", "set volumeAttributes.dynakube to the name of a DynaKube")
    if not _DNS_1035.fullmatch(name):
        raise InvalidRequestError(
            "volume_context[dynakube]",
            f"{name!r} is not a DNS-1035 label (a-z, 0-9 and '-', at most 63, starting with a letter)",
        )
    return DynaKubeName(name)


def _retry_timeout(context: Mapping[str, str]) -> float | None:
    text = _optional(context, "retryTimeout")
    if not text:
        return None
    try:
        return durations.parse(text)
    except ValueError as error:
        raise InvalidRequestError("volume_context[retryTimeout]", str(error)) from error


def _containers(context: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of containers; each of them becomes a file of the view."""
    field = "volume_context[containers]"
    text = context.get("containers", "")
    if len(text) > MAX_CONTAINERS_BYTES:
        raise InvalidRequestError(field, f"has {len(text)} bytes, and at most {MAX_CONTAINERS_BYTES} are accepted")
    names = tuple(name for name in text.split(",") if name)
    if len(names) > MAX_CONTAINERS:
        raise InvalidRequestError(field, f"has {len(names)} names, and at most {MAX_CONTAINERS} are accepted")
    seen = set[str]()
    for name in names:
        if not _CONTAINER.fullmatch(name):
            raise InvalidRequestError(field, f"{_quote(name)} is not a container name")
        if name in seen:
            raise InvalidRequestError(field, f"{name!r} is named twice")
        seen.add(name)
    return names
