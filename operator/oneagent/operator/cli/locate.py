"""Namespace of the installation, found in the cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from oneagent.common import dynakube
from oneagent.operator.cli import k8s_objects, snapshot
from oneagent.operator.cli.kubectl import Kubectl, KubectlError, KubectlUnusableError

T = TypeVar("T")
_NAMED: Final = f"--field-selector=metadata.name={snapshot.OPERATOR}"


def with_namespace(client: Kubectl) -> Kubectl:
    """Return the client with the namespace of the installation, or the default one if there is none.

    The webhook's configuration is one object that names the namespace. An installation without it is found by its
    workloads. `KubectlUnusableError` without access to the cluster.
    """
    return dataclasses.replace(client, namespace=next(_candidates(client), dynakube.DEFAULT_NAMESPACE))


def _candidates(client: Kubectl) -> Iterator[str]:
    for hook in (_read(lambda: client.get("mutatingwebhookconfigurations", snapshot.WEBHOOK)) or {}).get(
        "webhooks"
    ) or ():
        if namespace := ((hook.get("clientConfig") or {}).get("service") or {}).get("namespace"):
            yield str(namespace)
    for deployment in _read(lambda: client.list_objects("deployments", "--all-namespaces", _NAMED)) or ():
        yield str(deployment["metadata"]["namespace"])
    for kube in _read(lambda: client.list_objects(snapshot.DEFINITION, "--all-namespaces")) or ():
        yield k8s_objects.full_name(kube).partition("/")[0]


def _read(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except KubectlUnusableError:
        raise
    except KubectlError:
        return None
