"""Settings of host agents in a DynaKube: `spec.oneAgent.<mode>` and feature flags.

Parsing is strict, because an error here would reach every node: an invalid value raises `fields.FieldError` with
the field's name, and running agents stay unchanged. Quantities and taints are left to the API server, which
validates them and names the field as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, cast

from oneagent.common import dynakube, identifiers
from oneagent.common.dynakube import resource_attributes, rolling_update
from oneagent.common.dynakube.api import feature_flags, version_history
from oneagent.common.dynakube.mode import Mode
from oneagent.common.kubernetes import fields
from oneagent.common.oci import reference as oci_reference

DEFAULT_DNS_POLICY: Final = "ClusterFirstWithHostNet"
DEFAULT_STORAGE: Final = "/var/opt/dynatrace"
HOST_GROUP: Final = "--set-host-group"

_DNS_POLICIES: Final = (DEFAULT_DNS_POLICY, "ClusterFirst", "Default", "None")
_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_ENV_NAME: Final = re.compile(r"[!-<>-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAgent:
    mode: Mode
    image: str
    """Empty for the tenant registry's image."""
    version: str
    """Pinned by the user; empty if not."""
    host_group: str
    """From `spec.oneAgent.hostGroup`; one that is given as an argument is in `args`."""
    args: tuple[str, ...]
    env: tuple[Mapping[str, Any], ...]
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    priority_class: str
    resources: Mapping[str, Any]
    dns_policy: str
    seccomp_profile: str
    """A file below kubelet's seccomp directory; empty for none."""
    storage: str
    """Directory on the host, for read-only modes without the CSI driver."""
    rolling_update: Mapping[str, int | str]
    """As in the DaemonSet: exactly one of `maxUnavailable` and `maxSurge` is more than 0."""
    pull_policy: str
    """Empty for the default of Kubernetes."""
    attributes: Mapping[str, str]
    """Resource attributes of the hosts."""
    read_only: bool
    """The host's root file system is mounted read-only."""
    privileged: bool
    uses_proxy: bool
    may_share_nodes: bool


def is_driver_installed(csi_driver: Mapping[str, Any] | None) -> bool:
    """Check the CSIDriver object: it must allow inline volumes and not be terminating."""
    if csi_driver is None:
        return False
    metadata, driver_spec = csi_driver.get("metadata") or {}, csi_driver.get("spec") or {}
    return (
        metadata.get("name") == identifiers.DRIVER_NAME
        and "deletionTimestamp" not in metadata
        and "Ephemeral" in (driver_spec.get("volumeLifecycleModes") or ())
    )


def section(mode: Mode) -> str:
    return f"spec.oneAgent.{mode}"


def named_version(obj: Mapping[str, Any], mode: Mode) -> str:
    """Return the host agent's version, complete; empty if the user pinned none.

    Old API versions accept a version without the build's time. It pins nothing, as the webhook warns.
    """
    field = f"{section(mode)}.version"
    if dynakube.SHORT_VERSION.fullmatch(fields.text(obj, field)):
        return ""
    return fields.matching(obj, dynakube.FULL_VERSION, "a complete version such as 1.277.0.20230914-094321", field)


def named_image(obj: Mapping[str, Any], mode: Mode) -> str:
    """Return the host agent's image as the user wrote it; empty if not given."""
    return fields.text(obj, f"{section(mode)}.image")


def has_updates(obj: Mapping[str, Any]) -> bool:
    """Check that host agents follow the tenant's latest version; older versions of DynaKubes can switch it off."""
    return fields.annotation(obj, version_history.AUTO_UPDATE) != "false"


def from_object(obj: Mapping[str, Any], mode: Mode) -> HostAgent:
    """Parse the section of a mode that has host agents; `fields.FieldError` for an invalid value."""
    own = section(mode)
    return HostAgent(
        mode=mode,
        image=image(f"{own}.image", named_image(obj, mode)),
        version=named_version(obj, mode),
        host_group=fields.text(obj, "spec.oneAgent.hostGroup"),
        args=_args(obj, f"{own}.args"),
        env=_env(obj, f"{own}.env"),
        annotations=texts(obj, f"{own}.annotations"),
        labels=texts(obj, f"{own}.labels"),
        node_selector=texts(obj, f"{own}.nodeSelector"),
        tolerations=_mappings(obj, f"{own}.tolerations"),
        priority_class=fields.dns_name(obj, f"{own}.priorityClassName"),
        resources=_resources(obj, f"{own}.oneAgentResources"),
        dns_policy=_one_of(obj, f"{own}.dnsPolicy", _DNS_POLICIES) or DEFAULT_DNS_POLICY,
        seccomp_profile=_seccomp_profile(obj, f"{own}.secCompProfile"),
        storage=_storage(obj, f"{own}.storageHostPath"),
        rolling_update=rolling_update.read(obj, f"{own}.rollingUpdate"),
        pull_policy=_one_of(obj, f"{own}.imagePullPolicy", _PULL_POLICIES),
        attributes=_attributes(obj, mode),
        read_only=mode is not Mode.CLASSIC_FULL_STACK and _bool_flag(obj, "oneagent-readonly-host-fs", default=True),
        privileged=_bool_flag(obj, "oneagent-privileged"),
        uses_proxy=not _bool_flag(obj, "oneagent-ignore-proxy"),
        may_share_nodes=_bool_flag(obj, "multiple-osagents-on-node"),
    )


def image(field: str, reference: str) -> str:
    """Return the reference if it is empty or a valid image."""
    if reference and not oci_reference.IMAGE.fullmatch(reference):
        raise fields.FieldError(field, reference, "must be an image such as registry.example/oneagent:1.277.0")
    return reference


def texts(obj: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return a mapping of text to text, such as labels; empty if absent."""
    found = fields.at(obj, path)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise fields.FieldError(path, found, "must be a mapping of text to text")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise fields.FieldError(f"{path}[{key}]", value, "must be text; put it in quotes")
    return {key: found[key] for key in sorted(found)}


def _list(obj: Mapping[str, Any], path: str) -> list[object]:
    found = fields.at(obj, path)
    if found is not None and not isinstance(found, list):
        raise fields.FieldError(path, found, "must be a list")
    return found or []


def _mappings(obj: Mapping[str, Any], path: str) -> tuple[Mapping[str, Any], ...]:
    for number, item in enumerate(items := _list(obj, path)):
        if not isinstance(item, Mapping):
            raise fields.FieldError(f"{path}[{number}]", item, "must be a mapping of fields")
    return cast("tuple[Mapping[str, Any], ...]", tuple(items))


def _args(obj: Mapping[str, Any], path: str) -> tuple[str, ...]:
    found: list[str] = []
    for number, item in enumerate(_list(obj, path)):
        field = f"{path}[{number}]"
        if not isinstance(item, str):
            # The value may be a password: it is not shown.
            raise fields.FieldError(field, item, "must be text such as --set-host-tag=team=a", hidden=True)
        found.append(fields.printable(field, item, hidden=True))
    return tuple(found)


def _env(obj: Mapping[str, Any], path: str) -> tuple[Mapping[str, Any], ...]:
    seen: set[str] = set()
    for number, variable in enumerate(found := _mappings(obj, path)):
        field, name = f"{path}[{number}].name", variable.get("name")
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise fields.FieldError(field, name, "must be the name of an environment variable")
        if name in seen:
            raise fields.FieldError(field, name, "is given twice; keep one of them")
        seen.add(name)
    return found


def _resources(obj: Mapping[str, Any], path: str) -> dict[str, Any]:
    found = fields.at(obj, path)
    if found is not None and not isinstance(found, Mapping):
        raise fields.FieldError(path, found, "must be a mapping with requests and limits")
    for part in ("requests", "limits"):
        quantities = fields.at(obj, f"{path}.{part}")
        if quantities is not None and not isinstance(quantities, Mapping):
            raise fields.FieldError(f"{path}.{part}", quantities, "must be a mapping such as cpu: 100m")
    return dict(found or {})


def _one_of(obj: Mapping[str, Any], path: str, allowed: Collection[str]) -> str:
    """Return one of the allowed texts; empty if the field is not set."""
    value = fields.text(obj, path)
    if value and value not in allowed:
        raise fields.FieldError(path, value, f"must be one of {', '.join(allowed)}")
    return value


def _attributes(obj: Mapping[str, Any], mode: Mode) -> dict[str, str]:
    paths = (resource_attributes.FOR_ALL, resource_attributes.additional(mode))
    for path in paths:
        for fault in resource_attributes.faults(obj, path):
            raise fields.FieldError(path, fields.at(obj, path), fault)
    return resource_attributes.read(obj, *paths)


def _seccomp_profile(obj: Mapping[str, Any], path: str) -> str:
    value, field = fields.text(obj, path), path
    if not value:
        value, field = feature_flags.text(obj, flag := "oneagent-seccomp-profile"), feature_flags.annotation(flag)
    if value and (value.startswith("/") or ".." in PurePosixPath(value).parts):
        raise fields.FieldError(field, value, "must be a path below kubelet's seccomp directory")
    return value


def _storage(obj: Mapping[str, Any], path: str) -> str:
    value = fields.text(obj, path) or DEFAULT_STORAGE
    path_ = PurePosixPath(value)
    if not path_.is_absolute() or ".." in path_.parts or len(path_.parts) < 2:
        raise fields.FieldError(path, value, f"must be the absolute path of a directory such as {DEFAULT_STORAGE}")
    return value


def _bool_flag(obj: Mapping[str, Any], flag: str, *, default: bool = False) -> bool:
    value = feature_flags.text(obj, flag).lower()
    if value not in ("", "true", "false"):
        raise fields.FieldError(feature_flags.annotation(flag), value, 'must be "true" or "false"')
    return value == "true" if value else default
