"""Volume attributes: the facts about a pod that the webhook writes into its CSI volume for the node driver.

CSI asks for at most 128 bytes in a text and 4 KiB in a map. Kubernetes checks neither, but another kubelet may. So a
longer value goes on under its key with `~2`, `~3` and so on, and what the pod can do without is left out of a map that
is too large: first images, then resource attributes. Names of containers are never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

MODE: Final = "mode"
"""`MODE_APP`, `MODE_CONF`, or `host`: see the node driver"""
MODE_APP: Final = "app"
"""A view of the agent, with the pod's files"""
MODE_CONF: Final = "conf"
"""The pod's files only"""
DYNAKUBE: Final = "dynakube"
"""Name of the DynaKube, or of the OpenTelemetryInjection with that `AGENT`"""
AGENT: Final = "agent"
"""Kind of the agent (see `agents`); absent for OneAgent"""
CONTAINERS: Final = "containers"
"""Names of the containers with the agent, comma-separated"""
IMAGE: Final = "image."
"""`image.CONTAINER`: the container's image"""
RETRY_TIMEOUT: Final = "retryTimeout"
FAILURE_POLICY: Final = "failurePolicy"
"""`fail`: the pod never gets an empty view; otherwise absent"""
USER_NAMESPACE: Final = "userNamespace"
"""`true`: the pod has a user namespace, in which no overlay can be mounted"""
CONNECT_RETRY: Final = "connectRetryMs"
BASE_POD_NAME: Final = "basePodName"
WORKLOAD_KIND: Final = "workloadKind"
WORKLOAD_NAME: Final = "workloadName"
CLUSTER_ID: Final = "clusterId"
ENRICHMENT: Final = "enrichment"
"""`true`: the pod gets metadata files"""
ATTRIBUTE: Final = "attribute."
"""`attribute.KEY`: a resource attribute for the metadata files"""

MAX_BYTES: Final = 128
"""Bytes of a key or a value (CSI specification, "Size Limits")."""
MAX_MAP_BYTES: Final = 4096 - 768
"""Bytes of all keys and values. Kubelet adds the pod's names, UID and service account, in 768 bytes or less."""
MAX_IMAGE: Final = 512
"""Characters of an image: a repository has at most 255, a tag 128, a digest 71."""
_NEXT: Final = "~"
"""Neither the keys of resource attributes nor the names of containers have it."""
_OPTIONAL: Final = (IMAGE, ATTRIBUTE)


def encode(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return attributes within CSI's limits without the empty ones, and the keys of those that were left out."""
    found = {key: value for key, value in values.items() if value}
    if _fits(found):
        return found, []
    left_out = [key for key in found if key.startswith(_OPTIONAL) and not _is_possible(key, found[key])]
    for key in left_out:
        del found[key]
    size = sum(_size(key, value) for key, value in found.items())
    for prefix in _OPTIONAL:
        for key in [key for key in reversed(found) if key.startswith(prefix)]:
            if size > MAX_MAP_BYTES:
                size -= _size(key, found.pop(key))
                left_out.append(key)
    return dict(part for item in found.items() for part in _split(*item)), left_out


def join(attributes: Mapping[str, str], key: str) -> str:
    """Return a value with its further parts; empty if there is none."""
    value = attributes.get(key, "")
    number = 2
    while part := attributes.get(f"{key}{_NEXT}{number}"):
        value += part
        number += 1
    return value


def with_prefix(attributes: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return the values whose keys begin like this, by the rest of the key."""
    keys = [key for key in attributes if key.startswith(prefix) and _NEXT not in key]
    return {key.removeprefix(prefix): join(attributes, key) for key in keys}


def _split(key: str, value: str) -> Iterator[tuple[str, str]]:
    """Yield a value in parts. A text that is not ASCII may have parts of a quarter of the length."""
    step = MAX_BYTES if value.isascii() else MAX_BYTES // 4
    for number, start in enumerate(range(0, len(value), step), 1):
        yield key if number == 1 else f"{key}{_NEXT}{number}", value[start : start + step]


def _fits(found: Mapping[str, str]) -> bool:
    """Return whether nothing has to be split or left out, for most pods without a look at each value."""
    text = "".join((*found, *found.values()))
    longest = max(map(len, (*found, *found.values())), default=0)
    return len(text) <= MAX_MAP_BYTES and longest <= MAX_BYTES and text.isascii() and text.isprintable()


def _size(key: str, value: str) -> int:
    return sum(len(part) for item in _split(key, value) for part in map(_encode, item))


def _is_possible(key: str, value: str) -> bool:
    return value.isprintable() and len(value) <= MAX_IMAGE and len(_encode(key)) <= MAX_BYTES


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
