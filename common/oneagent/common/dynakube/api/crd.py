"""The CustomResourceDefinition of DynaKubes, with every version in it.

    manifest(client)    with conversion by the webhook that `client` names
    service(…)          such a client: the webhook behind its Service

Every version is served, and always with a converting webhook: the API server by itself changes only the version's
name on an object, and a selector of `v1beta1` would be stored where nothing looks for it.

The file that is shipped names the webhook before there is one, and no `caBundle`: the operator adds it with the
certificate. Until then, and whenever the webhook is down, objects are read and written in the newest version as ever,
for what is stored in it needs no conversion; an older manifest is refused with the webhook's name. The API server
goes on trying to fill its caches of the old versions meanwhile, which shows in its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oneagent.common import identifiers
from oneagent.common.dynakube.api import json_path, schema, version_history
from oneagent.common.dynakube.api.versions import NEWEST, VERSIONS

NAME: Final = f"dynakubes.{identifiers.API_GROUP}"

COLUMNS: Final = (
    ("ApiUrl", "string", ".spec.apiUrl"),
    ("Mode", "string", ".status.mode"),
    # The first of the two that there is.
    ("Version", "string", ".status['codeModules','oneAgent'].version"),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
    ("Age", "date", ".metadata.creationTimestamp"),
)
"""Columns of `kubectl get`: the same paths in every version, which a test holds."""


def manifest(client: Mapping[str, Any]) -> dict[str, Any]:
    webhook = {"clientConfig": dict(client), "conversionReviewVersions": ["v1"]}
    spec: dict[str, Any] = {
        "group": identifiers.API_GROUP,
        "scope": "Namespaced",
        "names": {
            "kind": "DynaKube",
            "listKind": "DynaKubeList",
            "plural": "dynakubes",
            "singular": "dynakube",
            "shortNames": ["dk", "dks"],
            "categories": ["dynatrace"],
        },
        "conversion": {"strategy": "Webhook", "webhook": webhook},
        "versions": [_version(version) for version in reversed(VERSIONS)],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": spec,
    }


def service(namespace: str, name: str, path: str, bundle: str = "") -> dict[str, Any]:
    """Return the client. `bundle` is the webhook's CA, PEM in base64; the operator adds it later if empty."""
    client: dict[str, Any] = {"service": {"namespace": namespace, "name": name, "path": path, "port": 443}}
    return {**client, "caBundle": bundle} if bundle else client


def _version(version: str) -> dict[str, Any]:
    newest = version == NEWEST
    old = f"{identifiers.API_GROUP}/{version} DynaKube is deprecated; write {identifiers.API_GROUP}/{NEWEST}"
    return {
        "name": version,
        "served": True,
        "storage": newest,
        **({} if newest else {"deprecated": True, "deprecationWarning": old}),
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS],
        "schema": {"openAPIV3Schema": _without_pruning(version_history.described(version))},
    }


def _without_pruning(described: schema.Schema) -> schema.Schema:
    """Return a schema that prunes no field.

    A manifest of another release, with fields that are not known here, can be applied as it is and comes back
    whole. The webhook warns of unknown fields, which it would never see if they were pruned.
    """
    root = json_path.copy_tree(described)
    for part in ("spec", "status"):
        root["properties"][part] = schema.preserving(root["properties"][part])
    return root
