"""Containers that are added to an injected pod: entries for its init container and for the node driver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from oneagent.common.injection import contract
from oneagent.webhook.injection import env as injection_env
from oneagent.webhook.injection import init_container
from oneagent.webhook.injection.existing import ExistingInjection
from oneagent.webhook.injection.pod_model import Container, Pod

Operation = dict[str, Any]


def operations(pod: Pod, found: ExistingInjection, new: Sequence[Container]) -> Iterator[Operation]:
    yield from _init_container(found, new)
    yield from _driver_attributes(pod, found, new)


def _init_container(found: ExistingInjection, new: Sequence[Container]) -> Iterator[Operation]:
    pointer = f"/spec/initContainers/{found.index}/env"
    last = max(found.container_numbers.values(), default=0)
    count = injection_env.literal(contract.Variable.CONTAINERS, str(last + len(new)))
    entries = init_container.container_variables(new, first=last + 1)
    names = [variable.name for variable in found.container.env or ()]
    if contract.Variable.CONTAINERS in names:
        yield {"op": "replace", "path": f"{pointer}/{names.index(contract.Variable.CONTAINERS)}", "value": count}
    else:
        entries.append(count)
    # It has variables: by these it was recognised.
    yield from ({"op": "add", "path": f"{pointer}/-", "value": entry} for entry in entries)


def _driver_attributes(pod: Pod, found: ExistingInjection, new: Sequence[Container]) -> Iterator[Operation]:
    if not found.csi:
        return
    index = found.volumes[contract.BIN_VOLUME]
    csi = (pod.spec.volumes or [])[index].csi
    if csi is not None and csi.volume_attributes:
        known = csi.volume_attributes.get("containers", "")
        named = ",".join([*filter(None, known.split(",")), *(container.name for container in new)])
        yield {"op": "add", "path": f"/spec/volumes/{index}/csi/volumeAttributes/containers", "value": named}
