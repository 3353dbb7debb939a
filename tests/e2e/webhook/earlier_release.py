"""Pods as the last release with an init container has injected them, where the driver is on the cluster."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import yaml

from oneagent.common.agents.oneagent.init_variables import Variable
from tests.e2e.installation import IMAGE

_POD: Final = yaml.safe_load(Path("tests/unit/webhook/injection/earlier-release.yaml").read_text())["agent"]


def injected(pod: dict[str, Any], dynakube: str) -> dict[str, Any]:
    """Return a pod of one container with such an injection, which the webhook recognises and leaves as it is."""
    pod, earlier = copy.deepcopy(pod), copy.deepcopy(_POD["spec"])
    (container,) = pod["spec"]["containers"]
    name = container["name"]
    (theirs,) = earlier["containers"]
    container |= {"env": theirs["env"], "volumeMounts": theirs["volumeMounts"]}
    for mount in container["volumeMounts"]:
        if mount.get("subPath", "").startswith("container_"):
            mount["subPath"] = f"container_{name}.conf"
    (ours,) = earlier["initContainers"]
    values = {Variable.DYNAKUBE: dynakube, Variable.CONTAINER_NAME.format(number=1): name}
    for variable in ours["env"]:
        variable.update({"value": values[variable["name"]]} if variable["name"] in values else {})
    ours |= {"image": IMAGE, "imagePullPolicy": "Never"}
    for volume in earlier["volumes"]:
        if "csi" in volume:
            volume["csi"]["volumeAttributes"] |= {"dynakube": dynakube, "containers": name}
    pod["spec"] |= {"initContainers": [ours], "volumes": earlier["volumes"]}
    return pod
