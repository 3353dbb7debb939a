"""Resources of the init container of pods without CSI.

It has just those of one of the pod's containers, where they are enough: requests, limits, or none of them. So it keeps
every LimitRange and every quota that this container keeps, whatever they are. The pod needs no more than before, since
init containers end before the others start, and its QoS class stays.

Where no container has limits that are enough, the init container gets more, unless a LimitRange or a quota of the
namespace would refuse that. If it can neither have enough, the pod is not injected. The DynaKube's `initResources`
replace all this, unless the API server would refuse them or the pod would lose the class Guaranteed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from oneagent.common import agents
from oneagent.common.kubernetes import quantities
from oneagent.webhook.injection import namespace_limits
from oneagent.webhook.injection.dynakube_settings import DynaKubeSettings
from oneagent.webhook.injection.namespace_limits import Rules
from oneagent.webhook.injection.plan import Plan
from oneagent.webhook.injection.pod_model import Container, Pod

Resources = dict[str, dict[str, Any]]

_REQUESTS: Final = {"cpu": "30m", "memory": "30Mi"}
_LIMITS: Final = {"cpu": "500m", "memory": "60Mi"}
_LIMIT_RANGER: Final = "kubernetes.io/limit-ranger"
"""Annotation by the API server of pods that got defaults of a LimitRange; a new one may not be known yet"""
_DISK: Final = "ephemeral-storage"
_DISK_OF_AGENT: Final = 2 << 30


@dataclass(frozen=True, slots=True)
class _Need:
    """Limits of an init container."""

    plenty: Mapping[str, str]
    enough: Mapping[str, str]
    """Those with which it ends, if slowly"""
    unpacks: bool


# Measured: it takes 9 MiB, and with less than half a core a start takes noticeably longer: 0.56 s instead of 0.2 s with
# a tenth.
_WRITING: Final = _Need({"cpu": "100m", "memory": "60Mi"}, {"cpu": "20m", "memory": "24Mi"}, unpacks=False)
# Measured: with eight threads it unpacks 300 MiB in 48 MiB, and is killed with 32 MiB.
_UNPACKING: Final = _Need({"cpu": "500m", "memory": "256Mi"}, {"cpu": "100m", "memory": "96Mi"}, unpacks=True)


def of_init_container(
    pod: Pod, dynakube: DynaKubeSettings, plan: Plan, rules: Sequence[Rules] | None
) -> Resources | None:
    """Return None if it cannot have enough. `rules` are those of the namespace; None if they are not known."""
    need = _UNPACKING if plan.agent else _WRITING
    if not rules and _LIMIT_RANGER in pod.annotations:
        rules = None
    copies = [_copy(container) for container in pod.spec.containers]
    slow = (copy for copy in copies if _has(copy, need.enough) and (not need.unpacks or _has_disk(pod)))
    if pod.spec.resources and (pod.spec.resources.requests or pod.spec.resources.limits):
        return next(slow, {})
    sidecars = (container for container in pod.spec.init_containers or () if container.restart_policy == "Always")
    others = [namespace_limits.amounts(_copy(container)) for container in (*sidecars, *pod.spec.containers)]
    for wished in _wishes(pod, dynakube, plan, need, copies):
        if wished in copies or (rules is not None and namespace_limits.admits(rules, wished, others)):
            return wished
    return next(slow, None)


def invalid_resources_warning(dynakube: DynaKubeSettings) -> str:
    """Return a warning about `initResources` that the API server would refuse; empty if it accepts them."""
    faults = (quantities.faults(given) for given in (dynakube.init_resources, dynakube.enrichment_resources))
    fault = next(itertools.chain.from_iterable(faults), "")
    return f"initResources of the {agents.describe_object(dynakube.common.name)} are ignored: {fault}" if fault else ""


def shortage(plan: Plan) -> str:
    """Return the limits that are enough, for users."""
    need = _UNPACKING if plan.agent else _WRITING
    disk = ", and ephemeral-storage of 4Gi in all, where it is limited" if need.unpacks else ""
    return f"at least cpu {need.enough['cpu']} and memory {need.enough['memory']}{disk}"


def _wishes(
    pod: Pod, dynakube: DynaKubeSettings, plan: Plan, need: _Need, copies: Sequence[Resources]
) -> Iterator[Resources]:
    """Yield resources with which the init container is fast, best first."""
    given = dynakube.init_resources if plan.agent else dynakube.enrichment_resources
    if given and next(quantities.faults(given), None) is None:
        chosen = {name: dict(section) for name, section in given.items() if section}
        if _are_guaranteed(chosen) or not all(map(_is_guaranteed, pod.all_containers())):
            yield chosen
    for copy in copies:
        if _has(copy, need.plenty):
            yield _with_disk(pod, copy) if need.unpacks else copy
    enlarged = _enlarge(pod, need)
    yield _with_disk(pod, enlarged) if need.unpacks else enlarged


def _copy(container: Container) -> Resources:
    resources: Resources = {"requests": {}, "limits": {}}
    for kind in quantities.KINDS:
        request, limit = _request_and_limit(container, kind)
        if request is not None:
            resources["requests"][kind] = request
        if limit is not None:
            resources["limits"][kind] = limit
    return {section: found for section, found in resources.items() if found}


def _enlarge(pod: Pod, need: _Need) -> Resources:
    """Return resources of the first container, or else more.

    Without CSI a limit is set only where all other containers have one, since an OOM kill would keep the pod from
    starting.
    """
    first = pod.spec.containers[0] if pod.spec.containers else None
    resources = _copy(first) if first else {}
    requests, limits = (dict(resources.get(section, {})) for section in ("requests", "limits"))
    for kind in ("cpu", "memory"):
        request, limit = _request_and_limit(first, kind)
        requests[kind] = _max_quantity(request, _REQUESTS[kind])
        limits.pop(kind, None)
        if need.unpacks and any(_request_and_limit(each, kind)[1] is None for each in pod.all_containers()):
            continue
        limits[kind] = _max_quantity(requests[kind], _LIMITS[kind] if limit is None else need.plenty[kind], limit)
        if limit is not None and quantities.parse(request) == quantities.parse(limit):
            requests[kind] = limits[kind]
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def _with_disk(pod: Pod, resources: Resources) -> Resources:
    """Add room for an agent to the limit of the whole pod, if there is one.

    Kubelet evicts a pod whose volumes exceed the limits of all its containers together, or of the largest init
    container.
    """
    total = _disk_limit(pod)
    if not total:
        return resources
    requests, limits = (resources.get(section, {}) for section in ("requests", "limits"))
    limits = {**limits, _DISK: str(int(total + _DISK_OF_AGENT))}
    # Without a request the limit would be the request.
    return {"requests": {_DISK: "0", **requests}, "limits": limits}


def _has_disk(pod: Pod) -> bool:
    total = _disk_limit(pod)
    return not total or total >= 2 * _DISK_OF_AGENT


def _disk_limit(pod: Pod) -> Decimal:
    """Return the limit of all containers together; 0 for none."""
    limits = (quantities.parse(_request_and_limit(container, _DISK)[1]) for container in pod.all_containers())
    return sum(filter(None, limits), Decimal())


def _has(resources: Resources, needed: Mapping[str, str]) -> bool:
    """Return whether limits are absent or at least these."""
    limits = resources.get("limits", {})
    return all(
        kind not in limits or (quantities.parse(limits[kind]) or Decimal()) >= (quantities.parse(least) or Decimal())
        for kind, least in needed.items()
    )


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
