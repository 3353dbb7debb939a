"""The files about a pod that OneAgent and applications read.

    container.conf                  identity of the pod, and of its container if that is the only one
    container_NAME.conf             identity of each container with the agent
    curl_options.conf               options for the agent's connections, if there are any
    enrichment/dt_metadata.json     the pod's metadata, for what sends data by itself
    enrichment/dt_metadata.properties

All values come from a pod, so from any user who may create one: each is reduced to its own line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

from oneagent.common.agents import oneagent
from oneagent.common.agents.oneagent import container_conf
from oneagent.common.agents.pod_files import PodFiles, to_single_line


def render_identity(files: PodFiles) -> str:
    container = files.containers[0][0] if len(files.containers) == 1 else ""
    return container_conf.render(dataclasses.replace(files.pod, container_name=container))


def render(files: PodFiles) -> Iterator[tuple[str, str]]:
    """Yield the path of each file below the directory of all, and its text."""
    for name, image in files.containers:
        container = dataclasses.replace(files.pod, container_name=name, image_name=image)
        yield oneagent.CONTAINER_CONF.format(container=name), container_conf.render(container)
    if files.connect_retry_ms > 0:
        yield oneagent.CURL_OPTIONS, f"initialConnectRetryMs {files.connect_retry_ms}\n"
    if files.enrichment:
        found = metadata(files)
        lines = (f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in found.items())
        yield (
            f"{oneagent.ENRICHMENT_DIRECTORY}/dt_metadata.json",
            json.dumps(found, ensure_ascii=False, indent=1) + "\n",
        )
        yield f"{oneagent.ENRICHMENT_DIRECTORY}/dt_metadata.properties", "".join(lines)


def metadata(files: PodFiles) -> dict[str, str]:
    """Return the pod's attributes and its DynaKube's, which come first. Older readers use keys of `dt.`.

    All containers of the pod read the same directory, so no attribute is about a single container.
    """
    pod, kind = files.pod, files.workload_kind.lower()
    found = {
        "k8s.pod.uid": pod.pod_uid,
        "k8s.pod.name": pod.pod_name,
        "k8s.namespace.name": pod.namespace,
        "k8s.node.name": pod.node_name,
        "k8s.workload.kind": kind,
        "k8s.workload.name": files.workload_name,
        "k8s.cluster.uid": pod.cluster_id,
        "dt.kubernetes.workload.kind": kind,
        "dt.kubernetes.workload.name": files.workload_name,
        "dt.kubernetes.cluster.id": pod.cluster_id,
        **files.resource_attributes,
    }
    cleaned = ((to_single_line(key), to_single_line(value)) for key, value in found.items())
    return {key: value for key, value in cleaned if key and value}
