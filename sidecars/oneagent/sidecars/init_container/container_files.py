"""The share directory: files with metadata for the application's containers.

Each file is mounted into containers by its name, so it must exist before they start, even without an agent. A file is
replaced by a rename, because an earlier run may have left one that this user cannot write to. If an earlier run wrote
nothing, kubelet has created an empty directory of that name to mount, which is replaced too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from typing import Final

from oneagent.common.agent_config import container_conf
from oneagent.common.injection import contract
from oneagent.sidecars.init_container import ShareWriteError
from oneagent.sidecars.init_container.settings import InitContainerSettings

_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
"""Containers run as any user."""
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def write(directory: str, settings: InitContainerSettings) -> None:
    """Write all files; `ShareWriteError` names the first that fails."""
    for name, text in files(settings).items():
        path = os.path.join(directory, name)
        try:
            _make_directory(os.path.dirname(path))
            _replace(path, text.encode())
        except OSError as error:
            raise ShareWriteError(
                f"{path}: {error.strerror}: the volume {contract.SHARE_VOLUME} must be writable and have free space"
            ) from error


def files(settings: InitContainerSettings) -> dict[str, str]:
    """Return each file's text by its path below the share directory."""
    found = {
        contract.CONTAINER_CONF.format(container=name): container_conf.render(
            dataclasses.replace(settings.pod, container_name=name, image_name=image)
        )
        for name, image in settings.containers
    }
    if settings.mode and settings.connect_retry_ms > 0:
        found[contract.CURL_OPTIONS] = f"initialConnectRetryMs {settings.connect_retry_ms}\n"
    if settings.enrichment:
        facts = enrichment(settings)
        lines = (f"{key}={value.replace(chr(92), chr(92) * 2)}\n" for key, value in facts.items())
        found[f"{contract.ENRICHMENT_DIRECTORY}/dt_metadata.json"] = (
            json.dumps(facts, ensure_ascii=False, indent=1) + "\n"
        )
        found[f"{contract.ENRICHMENT_DIRECTORY}/dt_metadata.properties"] = "".join(lines)
    return found


def enrichment(settings: InitContainerSettings) -> dict[str, str]:
    """Return the pod's attributes and its DynaKube's, which come first. Older readers use keys that begin with `dt.`.

    All containers of the pod read the same directory, so no attribute is about a single container.
    """
    pod, kind = settings.pod, settings.workload_kind.lower()
    facts = {
        "k8s.pod.uid": pod.pod_uid,
        "k8s.pod.name": pod.pod_name,
        "k8s.namespace.name": pod.namespace,
        "k8s.node.name": pod.node_name,
        "k8s.workload.kind": kind,
        "k8s.workload.name": settings.workload_name,
        "k8s.cluster.uid": pod.cluster_id,
        "dt.kubernetes.workload.kind": kind,
        "dt.kubernetes.workload.name": settings.workload_name,
        "dt.kubernetes.cluster.id": pod.cluster_id,
        **settings.resource_attributes,
    }
    cleaned = ((_on_one_line(key), _on_one_line(value)) for key, value in facts.items())
    return {key: value for key, value in cleaned if key and value}


def _on_one_line(text: str) -> str:
    return _UNPRINTABLE.sub("", text).strip()


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, _DIRECTORY_MODE)  # Not by `mkdir`, which applies the umask.


def _replace(path: str, content: bytes) -> None:
    fresh = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    # The application may be able to write to the enrichment directory: its links are not followed.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), _FILE_MODE)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.rmdir(path)
    os.rename(fresh, path)
