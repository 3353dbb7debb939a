"""The cases of `data/*.yaml`: a DynaKube, what is known beside it, and the DaemonSet that comes of it.

`daemonset` is the whole; `changes` is what differs from the DaemonSet of a DynaKube that says nothing but the mode:
by path, with the items of lists by their names, and null for what is not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from oneagent.common import dynakube
from oneagent.common.identifiers import FEATURE_PREFIX, TenantId
from oneagent.operator.host_agents import daemonset, image, spec
from oneagent.operator.host_agents.inputs import HostAgentInputs

VERSION: Final = "1.277.0.20230914-094321"

_FOLDER: Final = Path(__file__).parent / "data"

INPUTS: Final = HostAgentInputs(
    tenant=TenantId("abc12345"),
    tenant_token="dt0a01.TENANT",
    endpoints=("https://ag1.example/communication", "https://ag2.example/communication"),
    cluster_id="c0ffee00-0000-4000-8000-000000000000",
    operator_version="0.1.0",
    registry_password="dt0c01.PASSWORD",
)


def names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((_FOLDER / f"{name}.yaml").read_text(), yaml.CSafeLoader)
    return found


def obj(case: dict[str, Any]) -> dict[str, Any]:
    """The DynaKube of a case."""
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {
            "name": "prod",
            "namespace": "dynatrace",
            "uid": "5f0c1d6e-0000-4000-8000-000000000001",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {FEATURE_PREFIX + flag: value for flag, value in case.get("features", {}).items()},
        },
        "spec": {
            "apiUrl": "https://abc12345.live.dynatrace.com/api",
            **case.get("spec", {}),
            "oneAgent": {case["mode"]: case.get("section", {}), **case.get("oneAgent", {})},
        },
    }


def desired(case: dict[str, Any]) -> daemonset.Desired:
    read = obj(case)
    kube = dynakube.from_object(read)
    agent = spec.from_object(read, kube.mode)
    choice = image.choose(agent, kube, case.get("decided", VERSION), "")
    assert choice is not None
    inputs = dataclasses.replace(INPUTS, proxy=case.get("proxy", kube.proxy))
    return daemonset.Desired(kube, agent, choice, inputs, read["apiVersion"], case.get("driver", True))


def daemon_set(case: dict[str, Any]) -> dict[str, Any]:
    return daemonset.daemon_set(desired(case))


def changes(case: dict[str, Any]) -> dict[str, Any]:
    """What a case's DaemonSet has that the plain one of its mode has not, and the other way round."""
    before, after = dict(_flat(daemon_set({"mode": case["mode"]}))), dict(_flat(daemon_set(case)))
    paths = [path for path in (*after, *before) if before.get(path) != after.get(path) and daemonset.DIGEST not in path]
    return {path: after.get(path) for path in dict.fromkeys(paths)}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        for item in value:
            rest = {key: inner for key, inner in item.items() if key != "name"}
            yield from _flat(rest, f"{path}[{item['name']}]")
    else:
        yield path, value
