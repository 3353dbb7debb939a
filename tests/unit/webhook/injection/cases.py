"""Pods going in and what comes out, as files: the case, and what is said of the pod in it.

A case names only what matters in it. The rest is that of an ordinary pod in a namespace of an ordinary DynaKube with
the driver on the cluster; a case's `facts`, `dynakube` and `pod` are merged into that, and null takes something out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from oneagent.webhook.injection import Settings
from oneagent.webhook.injection.inputs import InjectionResult, Object, PodContext, Workload

Manifest = dict[str, Any]

FOLDER: Final = Path(__file__).parent / "cases"
CASES: Final = sorted(FOLDER.glob("*.yaml"))

SETTINGS: Final = Settings(image="registry.example.com/oneagent-csi:1", own_namespace="dynatrace", version="0.1.0")

DYNAKUBE: Final[Manifest] = {
    "apiVersion": "dynatrace.com/v1beta6",
    "kind": "DynaKube",
    "metadata": {"name": "prod", "namespace": "dynatrace"},
    "spec": {"apiUrl": "https://abc12345.example.com/api", "oneAgent": {"applicationMonitoring": {}}},
    "status": {
        "codeModules": {"version": "1.277.0.20230914-094321"},
        "oneAgent": {"connectionInfoStatus": {"tenantUUID": "abc12345"}},
    },
}
FACTS: Final[Manifest] = {
    "namespace": "shop",
    "namespace_labels": {"dynakube.internal.dynatrace.com/instance": "prod"},
    "namespace_annotations": {},
    "dynakube": DYNAKUBE,
    "workload": {"kind": "Deployment", "name": "web"},
    "cluster_id": "c0ffee",
    "csi": True,
}
POD: Final[Manifest] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "web-5d4f8c7b9d-", "annotations": {"team": "shop"}},
    "spec": {"containers": [{"name": "web", "image": "nginx:1"}]},
}
ORDINARY: Final[list[Manifest]] = yaml.load((Path(__file__).parent / "ordinary.yaml").read_text(), yaml.CSafeLoader)
"""The whole patch of an ordinary pod. Cases tell what is different from it."""
WITHOUT_CSI: Final[list[Manifest]] = yaml.load(
    (Path(__file__).parent / "ordinary-without-csi.yaml").read_text(), yaml.CSafeLoader
)


def facts(changes: Manifest) -> PodContext:
    found = merged(FACTS, changes)
    return PodContext(**{**found, "workload": Workload(**found["workload"])})


def arguments(case: Manifest) -> tuple[Manifest, PodContext]:
    changes = dict(case.get("facts", {}))
    if "dynakube" in case:
        changes["dynakube"] = case["dynakube"]
    return merged(POD, case.get("pod", {})), facts(changes)


def merged(base: Any, changes: Any) -> Any:
    """A merge patch (RFC 7386)."""
    if not isinstance(changes, Mapping):
        return copy.deepcopy(changes)
    found = copy.deepcopy(base) if isinstance(base, dict) else {}
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def said(outcome: InjectionResult, *, csi: bool = True) -> Manifest:
    """An outcome as a case writes it: without what is empty, and without what every ordinary pod gets."""
    usual = ORDINARY if csi else WITHOUT_CSI
    found: Manifest = {"injected": outcome.injected, "reason": outcome.reason}
    found["patch"] = [_brief(operation) for operation in outcome.patch if operation not in usual]
    changed = {operation["path"] for operation in outcome.patch}
    ordinary = [operation["path"] for operation in usual]
    found["without"] = [path for path in ordinary if path not in changed] if outcome.injected else []
    found["warnings"] = list(outcome.warnings)
    found["events"] = [f"{notice.kind} {notice.reason}" for notice in outcome.notices]
    return {key: value for key, value in found.items() if value not in ("", [])}


def _brief(operation: Object) -> Object:
    """Of a new init container only what is not as in the ordinary one."""
    usual = WITHOUT_CSI[-1]["value"][0]
    value = operation.get("value")
    container = value[0] if isinstance(value, list) else value
    if not isinstance(container, dict) or container.get("name") != usual["name"]:
        return operation
    differs = {key: there for key, there in container.items() if there != usual.get(key) and key != "env"}
    names = [variable["name"] for variable in container["env"]]
    added = [variable for variable in container["env"] if variable not in usual["env"]]
    gone = [variable["name"] for variable in usual["env"] if variable["name"] not in names]
    brief = {**differs, "env": added, "without": [*gone, *(key for key in usual if key not in container)]}
    return {**operation, "value": {key: part for key, part in brief.items() if part != []}}


def load(path: Path) -> Manifest:
    case: Manifest = yaml.load(path.read_text(), yaml.CSafeLoader)
    return case


def patched(document: Object, patch: Sequence[Object]) -> Manifest:
    """A document after a JSON patch (RFC 6902), of the operations that are used here."""
    found: Manifest = copy.deepcopy(dict(document))
    for operation in patch:
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        place: Any = found
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        value = copy.deepcopy(operation.get("value"))
        match operation["op"], place:
            case "add", list() if last == "-":
                place.append(value)
            case "add", list():
                assert 0 <= int(last) <= len(place)
                place.insert(int(last), value)
            case "replace", list():
                place[int(last)] = value
            case "add", dict():
                place[last] = value
            case "replace", dict():
                assert last in place
                place[last] = value
            case "remove", list():
                del place[int(last)]
            case "remove", dict():
                del place[last]
            case _:
                raise AssertionError(operation)
    return found
