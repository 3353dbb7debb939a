"""The share folder: what the application's containers are told about themselves, a file for each reader.

Each file is mounted into containers by its name, so it has to be there before they start, whatever becomes of the
agent. A file is replaced by a rename, because an earlier run may have left one that this user can't write to. Where
an earlier run has written nothing, kubelet has made an empty folder of that name to mount, and that gives way too.
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
from oneagent.sidecars.init_container import ShareError
from oneagent.sidecars.init_container.settings import InitContainerSettings

_FOLDER_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
"""Containers run as any user."""
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


def write(folder: str, settings: InitContainerSettings) -> None:
    """Make all files; `ShareError` names the first one that is refused."""
    for name, text in files(settings).items():
        path = os.path.join(folder, name)
        try:
            _make_folder(os.path.dirname(path))
            _replace(path, text.encode())
        except OSError as error:
            raise ShareError(
                f"{path}: {error.strerror}: the volume {contract.SHARE_VOLUME} has to be writable and have room"
            ) from error


def files(settings: InitContainerSettings) -> dict[str, str]:
    """Each file's text by its path below the share folder."""
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
    """The pod's attributes, without those that are not known. Older readers know the keys that begin with `dt.`.

    All containers of the pod read the same folder, so nothing in it is about one of them.
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
    }
    cleaned = ((key, _UNPRINTABLE.sub("", value).strip()) for key, value in facts.items())
    return {key: value for key, value in cleaned if value}


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, _FOLDER_MODE)  # Not by `mkdir`, which minds the umask.


def _replace(path: str, content: bytes) -> None:
    fresh = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    # A folder of enrichment may be writable for the application: nothing of its is followed.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), _FILE_MODE)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.rmdir(path)
    os.rename(fresh, path)
