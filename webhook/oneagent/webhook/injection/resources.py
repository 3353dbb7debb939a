"""What the init container may use.

It asks for what the pod's first container asks for, and may use as much, where that is enough. So whatever a
namespace demands of containers (a LimitRange the least, the most, and how far they are apart; a quota that there
are requests or limits at all), one that the first container fits is one that ours fits. The pod needs no more than
before, since init containers end before the others start, and one that is guaranteed what it asks for stays so.

Requests are always there. With CSI it does next to nothing and has limits in any case; without, it unpacks an agent,
and has a limit only where all other containers have one as well, since being killed for its memory would keep the
pod from starting. A pod with resources as a whole shares these. What a DynaKube says counts instead, unless the API
server would refuse it or a guaranteed pod would not be guaranteed any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from oneagent.common.kubernetes import quantities
from oneagent.webhook.injection.dynakube_settings import Kube
from oneagent.webhook.injection.pod_model import Container, Pod

_REQUESTS: Final = {"cpu": "30m", "memory": "30Mi"}
# With less than half a core a start takes noticeably longer: 0.56 s instead of 0.2 s with a tenth.
_LIMITS: Final = {"cpu": "500m", "memory": "60Mi"}
_NEEDED: Final = {"cpu": "100m", "memory": "60Mi"}
_NEEDED_UNPACKING: Final = {"cpu": "500m", "memory": "256Mi"}
_DISK: Final = "ephemeral-storage"
_DISK_OF_AGENT: Final = 2 << 30


def of_init_container(pod: Pod, kube: Kube, *, unpacks: bool) -> dict[str, Any]:
    if pod.spec.resources and (pod.spec.resources.requests or pod.spec.resources.limits):
        return {}
    if kube.init_resources and not unusable(kube):
        chosen = {name: dict(given) for name, given in kube.init_resources.items() if given}
        if _are_guaranteed(chosen) or not all(map(_is_guaranteed, pod.everything())):
            return chosen
    return _derived(pod, unpacks=unpacks)


def unusable(kube: Kube) -> str:
    """A warning, if no container could have what the DynaKube says."""
    fault = next(quantities.faults(kube.init_resources), "")
    return f"initResources of DynaKube {kube.common.name} are not used: {fault}" if fault else ""


def _derived(pod: Pod, *, unpacks: bool) -> dict[str, Any]:
    first = pod.spec.containers[0] if pod.spec.containers else None
    requests: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for kind in ("cpu", "memory"):
        asked, most = _of(first, kind)
        requests[kind] = _greatest(asked, _REQUESTS[kind])
        if unpacks and not all(_of(container, kind)[1] is not None for container in pod.everything()):
            continue
        needed = (_NEEDED_UNPACKING if unpacks else _NEEDED)[kind]
        limits[kind] = _greatest(requests[kind], _LIMITS[kind] if most is None else needed, most)
        if most is not None and quantities.parse(asked) == quantities.parse(most):
            requests[kind] = limits[kind]
    asked, most = _of(first, _DISK)
    if asked is not None:
        requests[_DISK] = asked
    if most is not None:
        limits[_DISK] = _disk_of_all(pod) if unpacks else most
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def _disk_of_all(pod: Pod) -> str:
    """Kubelet evicts a pod whose folders take more than what all of its containers may together, or the greatest init
    container alone."""
    each = (quantities.parse(_of(container, _DISK)[1]) for container in pod.everything())
    return str(int(sum(filter(None, each), Decimal(_DISK_OF_AGENT))))


def _greatest(*values: Any) -> Any:
    """Of quantities, the way it is written; what is none is left out."""
    return max((value for value in values if value is not None), key=lambda value: quantities.parse(value) or Decimal())


def _of(container: Container | None, kind: str) -> tuple[Any, Any]:
    """Request and limit, each None if there is none or it can't be read. A limit is the request too."""
    found = container.resources if container else None
    if found is None:
        return None, None
    most = (found.limits or {}).get(kind)
    asked, most = (
        None if quantities.parse(value) is None else value for value in ((found.requests or {}).get(kind, most), most)
    )
    return asked, most


def _is_guaranteed(container: Container) -> bool:
    found = container.resources
    return found is not None and _are_guaranteed({"requests": found.requests or {}, "limits": found.limits or {}})


def _are_guaranteed(resources: Mapping[str, Mapping[str, Any]]) -> bool:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    both = [
        (quantities.parse(requests.get(kind, limits.get(kind))), quantities.parse(limits.get(kind)))
        for kind in _REQUESTS
    ]
    return all(request is not None and request == limit for request, limit in both)
