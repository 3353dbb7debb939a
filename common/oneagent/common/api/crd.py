"""The CustomResourceDefinition of DynaKubes, with every version in it.

    manifest()          for a cluster without the webhook: only the newest version is served
    manifest(client)    with conversion by the webhook that `client` names: all versions are served
    service(…)          such a client: the webhook behind its Service

A version must not be served before there is somebody who converts it. Without conversion the API server changes only
the version's name on an object, and a selector of `v1beta1` would be stored where nothing looks for it. And with
conversion by a webhook that does not answer, the API server goes on trying to fill its caches of the old versions:
three objects made up to 60 errors a second in its log, for as long as nobody answered. So the file that is shipped
serves the newest version, and an older manifest gets a plain refusal; the operator replaces `spec` by that of
`manifest(client)` once the webhook's certificate is served. The old versions are in the file all the same: the API
server takes no CRD that lacks a version in which objects may still be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from oneagent.common import names
from oneagent.common.api import moves, schema, trees
from oneagent.common.api.fields import NEWEST, VERSIONS

NAME: Final = f"dynakubes.{names.API_GROUP}"

COLUMNS: Final = (
    ("ApiUrl", "string", ".spec.apiUrl"),
    ("Mode", "string", ".status.mode"),
    # The first of the two that there is.
    ("Version", "string", ".status['codeModules','oneAgent'].version"),
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
    ("Age", "date", ".metadata.creationTimestamp"),
)
"""What `kubectl get` shows: the same places in every version, which a test holds."""


def manifest(client: Mapping[str, Any] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "group": names.API_GROUP,
        "scope": "Namespaced",
        "names": {
            "kind": "DynaKube",
            "listKind": "DynaKubeList",
            "plural": "dynakubes",
            "singular": "dynakube",
            "shortNames": ["dk", "dks"],
            "categories": ["dynatrace"],
        },
    }
    if client is not None:
        webhook = {"clientConfig": dict(client), "conversionReviewVersions": ["v1"]}
        spec["conversion"] = {"strategy": "Webhook", "webhook": webhook}
    spec["versions"] = [_version(version, client is not None) for version in reversed(VERSIONS)]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": spec,
    }


def service(namespace: str, name: str, path: str, bundle: str) -> dict[str, Any]:
    """`bundle` is what the webhook's certificate is checked with: PEM, in base64."""
    return {"service": {"namespace": namespace, "name": name, "path": path, "port": 443}, "caBundle": bundle}


def _version(version: str, converted: bool) -> dict[str, Any]:
    newest = version == NEWEST
    old = f"{names.API_GROUP}/{version} DynaKube is deprecated; write {names.API_GROUP}/{NEWEST}"
    return {
        "name": version,
        "served": newest or converted,
        "storage": newest,
        **({} if newest else {"deprecated": True, "deprecationWarning": old}),
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS],
        "schema": {"openAPIV3Schema": _kept(moves.described(version))},
    }


def _kept(described: schema.Schema) -> schema.Schema:
    """The schema by which nothing that somebody has written is pruned.

    A manifest of another release, with fields that are not known here, can be applied as it is and comes back
    whole. What is unknown is told by the webhook, which would never see it if it were pruned.
    """
    root = trees.copied(described)
    for part in ("spec", "status"):
        root["properties"][part] = schema.preserving(root["properties"][part])
    return root
