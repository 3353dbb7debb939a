"""Resources of the init container.

It has the requests and limits of the pod's first container, where these are enough. So it satisfies every LimitRange
(minimum, maximum, ratio) and every quota that the first container satisfies. The pod needs no more than before, since
init containers end before the others start, and a pod of QoS class Guaranteed keeps it.

Requests are always set. With CSI the init container needs little and always has limits. Without CSI it unpacks an
agent, and has a limit only where all other containers have one, since an OOM kill would keep the pod from starting. If
the pod as a whole has resources, the init container has none of its own. The DynaKube's `initResources` replace all
this, unless the API server would refuse them or the pod would lose the class Guaranteed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from oneagent.common.kubernetes import quantities
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pod_model import Container, Pod

_REQUESTS: Final = {"cpu": "30m", "memory": "30Mi"}
# With less than half a core a start takes noticeably longer: 0.56 s instead of 0.2 s with a tenth.
_LIMITS: Final = {"cpu": "500m", "memory": "60Mi"}
_NEEDED: Final = {"cpu": "100m", "memory": "60Mi"}
_NEEDED_UNPACKING: Final = {"cpu": "500m", "memory": "256Mi"}
_DISK: Final = "ephemeral-storage"
_DISK_OF_AGENT: Final = 2 << 30


def of_init_container(pod: Pod, dynakube: DynaKubeSettings, plan: Plan) -> dict[str, Any]:
    if pod.spec.resources and (pod.spec.resources.requests or pod.spec.resources.limits):
        return {}
    given_resources = dynakube.init_resources if plan.agent else dynakube.enrichment_resources
    if given_resources and next(quantities.faults(given_resources), None) is None:
        chosen = {name: dict(given) for name, given in given_resources.items() if given}
        if _are_guaranteed(chosen) or not all(map(_is_guaranteed, pod.all_containers())):
            return chosen
    return _derive(pod, unpacks=plan.agent and not plan.csi)


def invalid_resources_warning(dynakube: DynaKubeSettings) -> str:
    """Return a warning about `initResources` that the API server would refuse; empty if it accepts them."""
    faults = (quantities.faults(given) for given in (dynakube.init_resources, dynakube.enrichment_resources))
    fault = next(itertools.chain.from_iterable(faults), "")
    return f"initResources of the DynaKube {dynakube.common.name} are ignored: {fault}" if fault else ""


def _derive(pod: Pod, *, unpacks: bool) -> dict[str, Any]:
    first = pod.spec.containers[0] if pod.spec.containers else None
    requests: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for resource in ("cpu", "memory"):
        request, limit = _request_and_limit(first, resource)
        requests[resource] = _max_quantity(request, _REQUESTS[resource])
        if unpacks and not all(
            _request_and_limit(container, resource)[1] is not None for container in pod.all_containers()
        ):
            continue
        needed = (_NEEDED_UNPACKING if unpacks else _NEEDED)[resource]
        limits[resource] = _max_quantity(requests[resource], _LIMITS[resource] if limit is None else needed, limit)
        if limit is not None and quantities.parse(request) == quantities.parse(limit):
            requests[resource] = limits[resource]
    request, limit = _request_and_limit(first, _DISK)
    if request is not None:
        requests[_DISK] = request
    if limit is not None:
        limits[_DISK] = _disk_of_all(pod) if unpacks else limit
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def _disk_of_all(pod: Pod) -> str:
    """Return a limit for the whole pod.

    Kubelet evicts a pod whose volumes exceed the limits of all its containers together, or of the largest init
    container.
    """
    limits = (quantities.parse(_request_and_limit(container, _DISK)[1]) for container in pod.all_containers())
    return str(int(sum(filter(None, limits), Decimal(_DISK_OF_AGENT))))


def _max_quantity(*values: Any) -> Any:
    """Return the largest quantity as it was written; None is ignored."""
    return max((value for value in values if value is not None), key=lambda value: quantities.parse(value) or Decimal())


def _request_and_limit(container: Container | None, resource: str) -> tuple[Any, Any]:
    """Return request and limit, each None if absent or invalid. A limit is also the default request."""
    resources = container.resources if container else None
    if resources is None:
        return None, None
    limit = (resources.limits or {}).get(resource)
    request, limit = (
        None if quantities.parse(value) is None else value
        for value in ((resources.requests or {}).get(resource, limit), limit)
    )
    return request, limit


def _is_guaranteed(container: Container) -> bool:
    resources = container.resources
    return resources is not None and _are_guaranteed(
        {"requests": resources.requests or {}, "limits": resources.limits or {}}
    )


def _are_guaranteed(resources: Mapping[str, Mapping[str, Any]]) -> bool:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    both = [
        (quantities.parse(requests.get(resource, limits.get(resource))), quantities.parse(limits.get(resource)))
        for resource in _REQUESTS
    ]
    return all(request is not None and request == limit for request, limit in both)
