"""Containers that are added to an injected pod: what the node driver or its init container has to know about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oneagent.common.agents.oneagent.init_variables import Variable
from oneagent.common.injection import volume_attributes
from oneagent.common.kubernetes import env
from oneagent.webhook import json_patch
from oneagent.webhook.injection import init_container, volumes
from oneagent.webhook.injection.existing import ExistingInitContainer, ExistingInjection
from oneagent.webhook.injection.pod_model import Container, Pod

Operation = dict[str, Any]


def operations(pod: Pod, found: ExistingInjection, new: Sequence[Container]) -> tuple[list[Operation], list[str]]:
    """Return the operations, and the keys of attributes that are left out."""
    if found.init is not None:
        changes = list(_init_container(found.init, new))
        return [*changes, *_names(pod, found, new)], []
    before = _attributes(pod, found)
    values = volume_attributes.with_prefix(before, "")
    values[volume_attributes.CONTAINERS] = ",".join((*filter(None, found.prepared), *(each.name for each in new)))
    after, left_out = volume_attributes.encode(values | volumes.images(new))
    return list(_changes(found, before, after)), left_out


def _changes(found: ExistingInjection, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Operation]:
    """Yield the smallest change of the volume's attributes."""
    place = f"/spec/volumes/{found.volume_index}/csi/volumeAttributes"
    for key in before.keys() - after.keys():
        yield {"op": "remove", "path": f"{place}/{json_patch.escaped(key)}"}
    for key, value in after.items():
        if before.get(key) != value:
            yield {"op": "add", "path": f"{place}/{json_patch.escaped(key)}", "value": value}


def _init_container(found: ExistingInitContainer, new: Sequence[Container]) -> Iterator[Operation]:
    pointer = f"/spec/initContainers/{found.index}/env"
    last = max(found.numbers.values(), default=0)
    count = env.literal(Variable.CONTAINERS, str(last + len(new)))
    entries = init_container.container_variables(new, first=last + 1)
    names = [variable.name for variable in found.container.env or ()]
    if Variable.CONTAINERS in names:
        yield {"op": "replace", "path": f"{pointer}/{names.index(Variable.CONTAINERS)}", "value": count}
    else:
        entries.append(count)
    # It has variables: by these it was recognised.
    yield from ({"op": "add", "path": f"{pointer}/-", "value": entry} for entry in entries)


def _names(pod: Pod, found: ExistingInjection, new: Sequence[Container]) -> Iterator[Operation]:
    """Yield the change of the view that an earlier release has added; it has all names in one value."""
    if not found.csi or not (attributes := _attributes(pod, found)):
        return
    known = attributes.get(volume_attributes.CONTAINERS, "").split(",")
    named = {volume_attributes.CONTAINERS: ",".join([*filter(None, known), *(container.name for container in new)])}
    yield from _changes(found, attributes, {**attributes, **named})


def _attributes(pod: Pod, found: ExistingInjection) -> Mapping[str, str]:
    csi = (pod.spec.volumes or [])[found.volume_index].csi
    return (csi.volume_attributes if csi is not None else None) or {}
