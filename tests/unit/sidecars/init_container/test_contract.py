"""The init container finds all that it needs in pods without CSI, in every case of the webhook's."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.injection import contract
from oneagent.sidecars.init_container import settings
from oneagent.webhook.injection import inject
from oneagent.webhook.injection.inputs import InjectionResult
from tests.unit.webhook.injection import cases, kubelet

PLACES = settings.Places()


def outcome(path: Path) -> InjectionResult:
    return inject(*cases.arguments(cases.load(path)), cases.SETTINGS)


def has_init_container(path: Path) -> bool:
    found = outcome(path)
    return found.injected and any(
        operation["path"].startswith("/spec/initContainers") for operation in found.patch[-1:]
    )


INJECTED = [pytest.param(path, id=path.stem) for path in cases.CASES if has_init_container(path)]


def injected_pod(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A case's pod as it comes out, and our init container."""
    pod, _ = cases.arguments(cases.load(path))
    spec: dict[str, Any] = cases.patched(pod, outcome(path).patch)["spec"]
    (ours,) = (one for one in spec["initContainers"] if one["name"] == contract.INIT_CONTAINER)
    return spec, ours


@pytest.mark.parametrize("path", INJECTED)
def test_every_file_that_a_container_mounts_is_written(path: Path) -> None:
    spec, ours = injected_pod(path)
    wanted = settings.read(kubelet.environment(ours["env"], {}))
    written = {name.partition("/")[0] for name, _ in wanted.files.render()}
    mounted = {
        mount["subPath"]
        for container in (*spec["containers"], *spec["initContainers"])
        for mount in container.get("volumeMounts", ())
        if mount["name"] == contract.SHARE_VOLUME and "subPath" in mount
    }
    assert mounted == written


@pytest.mark.parametrize("path", INJECTED)
def test_every_folder_that_is_used_is_mounted(path: Path) -> None:
    _, ours = injected_pod(path)
    wanted = settings.read(kubelet.environment(ours["env"], {}))
    used = {PLACES.share: contract.SHARE_VOLUME}
    if wanted.mode:
        used[PLACES.bin] = contract.BIN_VOLUME
    if wanted.mode == settings.INSTALLER:
        used[PLACES.config] = contract.CONFIG_VOLUME
    assert {mount["mountPath"]: mount["name"] for mount in ours["volumeMounts"]} == used
    read_only = {mount["mountPath"] for mount in ours["volumeMounts"] if mount.get("readOnly")}
    assert not read_only & {PLACES.share, PLACES.bin if wanted.mode == settings.INSTALLER else PLACES.share}


def test_the_command_is_one_of_the_package() -> None:
    _, ours = injected_pod(cases.FOLDER / "without-csi.yaml")
    assert f"{shlex.join(ours['command'])} =" in Path("pyproject.toml").read_text()
