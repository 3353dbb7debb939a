"""Validation of volume attributes, which a pod's author may write as they like.

Every attribute has a longest value, a refusal quotes only the beginning of one, and unknown attributes are ignored.
`common.injection.volume_attributes` has their names and how a long value is split. Webhooks of earlier releases write
`mode`, `dynakube`, `retryTimeout` and a long `containers` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from oneagent.common import agents, durations
from oneagent.common.agents.pod_files import Container, PodFiles
from oneagent.common.agents.profile import AgentProfile
from oneagent.common.identifiers import DynaKubeName
from oneagent.common.injection import volume_attributes
from oneagent.common.kubernetes import labels
from oneagent.csi_driver.server.errors import InvalidRequestError

Mode = Literal["app", "conf", "host"]

MAX_CONTAINERS: Final = 1000
MAX_CONTAINERS_BYTES: Final = 64 << 10
MAX_RESOURCE_ATTRIBUTES: Final = 128
"""Those of two fields of a DynaKube."""
_MAX_VALUE: Final = 253
"""Longest value of most attributes: that of a name in Kubernetes."""
_MAX_QUOTED: Final = 100
_DNS_1035: Final = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_CONTAINER: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_MILLISECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


def pod_files(context: Mapping[str, str], *, name: str, namespace: str, uid: str) -> PodFiles:
    """Return the files of a pod, without the node's name and what the node knows of the DynaKube."""
    containers = _containers(context)
    pod = Container(
        pod_name=name,
        namespace=namespace,
        pod_uid=uid,
        base_pod_name=optional(context, volume_attributes.BASE_POD_NAME),
        cluster_id=optional(context, volume_attributes.CLUSTER_ID),
    )
    return PodFiles(
        pod,
        tuple(
            (name, optional(context, f"{volume_attributes.IMAGE}{name}", volume_attributes.MAX_IMAGE))
            for name in containers
        ),
        connect_retry_ms=_milliseconds(context, volume_attributes.CONNECT_RETRY),
        enrichment=boolean(context, volume_attributes.ENRICHMENT),
        workload_kind=optional(context, volume_attributes.WORKLOAD_KIND),
        workload_name=optional(context, volume_attributes.WORKLOAD_NAME),
        resource_attributes=_resource_attributes(context),
        agent=agent(context).kind,
    )


def refuse_longer(field: str, value: str, characters: int) -> None:
    if len(value) > characters:
        raise InvalidRequestError(field, f"has {len(value)} characters, and at most {characters} are accepted")


def quote(value: str) -> str:
    """Return the beginning of a value for a message, with control characters escaped."""
    return repr(value if len(value) <= _MAX_QUOTED else f"{value[:_MAX_QUOTED]}…")


def _field(key: str) -> str:
    return f"volume_context[{key}]"


def optional(context: Mapping[str, str], key: str, longest: int = _MAX_VALUE) -> str:
    value = volume_attributes.join(context, key)
    refuse_longer(_field(key), value, longest)
    if not value.isprintable():
        raise InvalidRequestError(_field(key), f"{quote(value)} contains a control character")
    return value


def required(context: Mapping[str, str], key: str, remedy: str) -> str:
    value = optional(context, key)
    if not value:
        raise InvalidRequestError(_field(key), f"is missing in the request; {remedy}")
    return value


def mode(context: Mapping[str, str]) -> Mode:
    mode = required(context, volume_attributes.MODE, "set volumeAttributes.mode to app, conf or host")
    match mode:
        case "app" | "conf" | "host":
            return mode
        case _:
            raise InvalidRequestError(_field(volume_attributes.MODE), f"{mode!r} is unknown; use app, conf or host")


def dynakube(context: Mapping[str, str]) -> DynaKubeName:
    key = volume_attributes.DYNAKUBE
    name = required(context, key, "set volumeAttributes.dynakube to the name of a DynaKube")
    if not _DNS_1035.fullmatch(name):
        raise InvalidRequestError(
            _field(key), f"{name!r} is not a DNS-1035 label (a-z, 0-9 and '-', at most 63, starting with a letter)"
        )
    return DynaKubeName(agent(context).name_prefix + name)


def agent(context: Mapping[str, str]) -> AgentProfile:
    """Return the kind of the pod's agent."""
    kind = optional(context, volume_attributes.AGENT) or agents.DEFAULT.kind
    try:
        return agents.get(kind)
    except KeyError:
        known = ", ".join(profile.kind for profile in agents.PROFILES)
        raise InvalidRequestError(_field(volume_attributes.AGENT), f"{quote(kind)} is unknown; use {known}") from None


def retry_timeout(context: Mapping[str, str]) -> float | None:
    text = optional(context, volume_attributes.RETRY_TIMEOUT)
    if not text:
        return None
    try:
        return durations.parse(text)
    except ValueError as error:
        raise InvalidRequestError(_field(volume_attributes.RETRY_TIMEOUT), str(error)) from error


def boolean(context: Mapping[str, str], key: str) -> bool:
    value = optional(context, key)
    if value not in {"", "true", "false"}:
        raise InvalidRequestError(_field(key), f"{quote(value)} is no boolean; use true, or leave it out")
    return value == "true"


def _milliseconds(context: Mapping[str, str], key: str) -> int:
    text = optional(context, key)
    if text and not _MILLISECONDS.fullmatch(text):
        raise InvalidRequestError(_field(key), f"{quote(text)} is no number; use milliseconds, at most nine digits")
    return int(text or 0)


def is_fail(context: Mapping[str, str]) -> bool:
    """Return whether the pod must not get an empty view."""
    key = volume_attributes.FAILURE_POLICY
    value = optional(context, key)
    if value not in {"", "fail"}:
        raise InvalidRequestError(_field(key), f"{quote(value)} is unknown; use fail, or leave it out")
    return value == "fail"


def _containers(context: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of containers; each of them becomes a file of the volume."""
    field = _field(volume_attributes.CONTAINERS)
    text = volume_attributes.join(context, volume_attributes.CONTAINERS)
    if len(text) > MAX_CONTAINERS_BYTES:
        raise InvalidRequestError(field, f"has {len(text)} bytes, and at most {MAX_CONTAINERS_BYTES} are accepted")
    names = tuple(name for name in text.split(",") if name)
    if len(names) > MAX_CONTAINERS:
        raise InvalidRequestError(field, f"has {len(names)} names, and at most {MAX_CONTAINERS} are accepted")
    seen = set[str]()
    for name in names:
        if not _CONTAINER.fullmatch(name):
            raise InvalidRequestError(field, f"{quote(name)} is not a container name")
        if name in seen:
            raise InvalidRequestError(field, f"{name!r} is named twice")
        seen.add(name)
    return names


def _resource_attributes(context: Mapping[str, str]) -> Mapping[str, str]:
    """Return the resource attributes; each becomes a line, so keys and values have the form of labels'."""
    prefix = volume_attributes.ATTRIBUTE
    count = sum(key.startswith(prefix) for key in context)
    if not count:
        return {}
    if count > MAX_RESOURCE_ATTRIBUTES:
        raise InvalidRequestError(
            f"volume_context[{prefix}*]", f"has {count} entries, and at most {MAX_RESOURCE_ATTRIBUTES} are accepted"
        )
    found = volume_attributes.with_prefix(context, prefix)
    for key, value in found.items():
        if not labels.is_key(key):
            field = _field(prefix + quote(key)[1:-1])
            raise InvalidRequestError(field, f"its key must read {labels.KEY_FORM}")
        if not labels.is_value(value):
            raise InvalidRequestError(_field(prefix + key), f"{quote(value)} must have {labels.VALUE_FORM}")
    return found
