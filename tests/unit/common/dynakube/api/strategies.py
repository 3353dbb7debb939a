"""DynaKubes as Hypothesis draws them: as the API server would take them, and as somebody might write them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import hypothesis
from hypothesis import strategies as st

from oneagent.common.dynakube.api import feature_flags, json_path, schema, version_history, versions
from oneagent.common.dynakube.mode import MODES
from oneagent.common.kubernetes import fields as kubernetes_fields
from tests.unit.common.dynakube.api.manifests import Manifest

SWIFTLY = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
)
_NAMES = sorted(
    {
        path.split(".")[-1]
        for version in versions.VERSIONS
        for path, _ in schema.fields(version_history.described(version))
    }
    | {"prometheus", "mappedHostPaths", "persistentVolumeClaim", "volumeClaimTemplate", "connectionInfo", "foo"}
)
_SECTIONS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(_NAMES), _SCALARS | st.just({}) | st.lists(_SCALARS, max_size=2), max_size=3
)
_FLAGS = st.dictionaries(
    st.sampled_from(
        [
            *(
                prefix + name
                for prefix in feature_flags.PREFIXES
                for name in (
                    "metadata-enrichment",
                    "disable-metadata-enrichment",
                    "enable-metadata-enrichment",
                    "dynatrace-api-request-threshold",
                    "oneagent-seccomp-profile",
                    "no-proxy",
                )
            ),
            version_history.AUTO_UPDATE,
            "example.com/owner",
        ]
    ),
    st.sampled_from(["true", "false", "TRUE", "15", "30", "015", "-1", "99999", "a", ""]),
    max_size=3,
)


def values(field: schema.Schema) -> st.SearchStrategy[Any]:
    """Some that a description allows."""
    match field.get("type"):
        case "object" if "properties" in field:
            return st.just({})
        case "object" if schema.PRESERVE in field:
            return _SECTIONS
        case "object":
            return st.sampled_from([{}, {"a": "b"}])
        case "array":
            return st.sampled_from([[], [{}], ["a", "b"]])
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(0, 65535)
        case _:
            return st.text(max_size=3)


@functools.cache
def leaves(version: str) -> dict[str, st.SearchStrategy[Any]]:
    """Every place that a version describes, lists and mappings as a whole."""
    found = schema.fields(version_history.described(version))
    parts = {path: field for path, field in found if path.split(".")[0] in ("spec", "status")}
    return {path: values(field) for path, field in parts.items() if "[]" not in path and "*" not in path}


@st.composite
def described(draw: st.DrawFn, version: str, modes: int = 2) -> Manifest:
    """As the API server would take it, with so many modes at most."""
    places = leaves(version)
    manifest: Manifest = {"apiVersion": f"dynatrace.com/{version}", "kind": "DynaKube", "metadata": {"name": "shop"}}
    chosen = draw(st.sets(st.sampled_from([path for path in places if not mode_of(path)]), max_size=6))
    for mode in draw(st.sets(st.sampled_from(sorted(filter(None, map(mode_of, places)))), max_size=modes)):
        chosen |= draw(st.sets(st.sampled_from([path for path in places if mode_of(path) == mode]), max_size=6))
        chosen.add(mode)
    for path in sorted(chosen):
        json_path.set_value(manifest, path, copy.deepcopy(draw(places[path])))
    if flags := draw(_FLAGS):
        manifest["metadata"]["annotations"] = flags
    return manifest


def mode_of(path: str) -> str:
    parts = path.split(".")
    if parts[:2] == ["spec", "oneAgent"] and len(parts) > 2 and parts[2] in MODES:
        return ".".join(parts[:3])
    return (
        ".".join(parts[:2]) if parts[1:2] and parts[1] in ("classicFullStack", "infraMonitoring", "codeModules") else ""
    )


@st.composite
def wild(draw: st.DrawFn, version: str) -> Manifest:
    """Known names anywhere, of this version and others, with values of any type."""
    manifest = draw(described(version))
    for _ in range(draw(st.integers(0, 4))):
        path = draw(st.sampled_from(sorted(leaves(draw(st.sampled_from(versions.VERSIONS))))))
        try:
            json_path.set_value(manifest, path, copy.deepcopy(draw(_SCALARS | _SECTIONS)))
        except kubernetes_fields.FieldError:
            continue
    return manifest
