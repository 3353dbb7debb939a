"""Whether the end of the provisioner is an uninstall, as the API server tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.kubernetes import errors
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.dynakube_sources.api_server import KubernetesSource
from oneagent.csi_driver.dynakube_sources.directory import DirectorySource
from oneagent.csi_driver.linux import process
from oneagent.csi_driver.provisioner import uninstall
from tests.fakes.kube_api import KubeApi

NAME = "oneagent-csi-driver"


def daemonset(**metadata: str) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": NAME, "namespace": "driver", **metadata}}


@pytest.fixture
def api() -> Iterator[KubeApi]:
    """With the DaemonSet in it."""
    with KubeApi(token="sa") as api:
        api.put("daemonsets", daemonset())
        yield api


@pytest.fixture
def source(api: KubeApi, tmp_path: Path) -> Iterator[KubernetesSource]:
    config = api.kubeconfig(tmp_path / "kubeconfig", namespace="driver")
    source = KubernetesSource(kubeconfig=config, namespace="of-the-dynakubes")
    yield source
    source.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataDir]:
    """One that a server is at work on."""
    folder = DataDir(tmp_path / "data")
    folder.create()
    with process.exclusive_lock(folder.server_lock):
        yield folder


class Watch:
    """A provisioner's watch, from its start until `end`."""

    def __init__(self, source: KubernetesSource, folder: DataDir) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=uninstall.watch, args=(source, NAME, folder, self._stop), daemon=True)
        self._thread.start()

    def end(self) -> float:
        """The seconds that it took after SIGTERM."""
        began = time.monotonic()
        self._stop.set()
        self._thread.join(2 * LONG_SECONDS)
        assert not self._thread.is_alive()
        return time.monotonic() - began

    def has_ended(self) -> bool:
        self._thread.join(20)
        return not self._thread.is_alive()


LONG_SECONDS = 30.0


@pytest.fixture
def for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that ends by its own limit ends long after one that ends at once."""
    monkeypatch.setattr(uninstall, "_LIMIT_SECONDS", LONG_SECONDS)


@pytest.fixture
def watch(api: KubeApi, source: KubernetesSource, folder: DataDir) -> Watch:
    watch = Watch(source, folder)
    while not api.seen("daemonsets"):
        time.sleep(0.01)
    return watch


@pytest.mark.usefixtures("for_long")
class TestItIsAnUninstall:
    @pytest.mark.parametrize(
        "happen",
        [
            lambda api: api.delete("daemonsets", NAME, "driver"),
            lambda api: api.put("daemonsets", daemonset(deletionTimestamp="2024-01-01T00:00:00Z")),
            lambda api: api.forbidden.add("daemonsets"),
            lambda api: setattr(api, "token", "of nobody"),
        ],
        ids=["the DaemonSet is gone", "it is being deleted", "it may not be seen any more", "nobody is known any more"],
    )
    def test_at_once_when(self, api: KubeApi, watch: Watch, folder: DataDir, happen: Callable[[KubeApi], None]) -> None:
        happen(api)
        assert watch.end() < LONG_SECONDS / 2
        assert folder.uninstall_marker.read_bytes() == b""

    def test_also_when_the_daemonset_goes_a_little_later_than_its_pods(
        self, api: KubeApi, watch: Watch, folder: DataDir
    ) -> None:
        later = threading.Timer(1.2, api.delete, ("daemonsets", NAME, "driver"))
        later.start()
        assert 1.2 <= watch.end() < LONG_SECONDS / 2
        later.join()
        assert folder.uninstall_marker.exists()

    def test_also_when_the_api_server_does_not_tell_at_first(self, api: KubeApi, watch: Watch, folder: DataDir) -> None:
        api.delete("daemonsets", NAME, "driver")
        api.fail_next(503, plural="daemonsets", times=2)
        watch.end()
        assert folder.uninstall_marker.exists()

    def test_also_when_the_provisioner_has_just_been_started(
        self, api: KubeApi, source: KubernetesSource, folder: DataDir
    ) -> None:
        api.delete("daemonsets", NAME, "driver")
        stop = threading.Event()
        stop.set()
        uninstall.watch(source, NAME, folder, stop)
        assert folder.uninstall_marker.exists()


class TestItIsNone:
    def test_while_the_daemonset_is_there(self, api: KubeApi, watch: Watch, folder: DataDir) -> None:
        assert 4 <= watch.end() < 15
        assert not folder.uninstall_marker.exists()
        assert {request.path for request in api.seen("daemonsets")} == {
            f"/apis/apps/v1/namespaces/driver/daemonsets/{NAME}"
        }

    def test_while_the_api_server_is_away(self, api: KubeApi, watch: Watch, folder: DataDir) -> None:
        api.__exit__()
        assert watch.end() < 15
        assert not folder.uninstall_marker.exists()

    def test_when_the_daemonset_was_never_seen(
        self, api: KubeApi, source: KubernetesSource, folder: DataDir, caplog: pytest.LogCaptureFixture
    ) -> None:
        api.forbidden.add("daemonsets")
        watch = Watch(source, folder)
        assert watch.has_ended()
        assert "uninstall detection disabled: check --daemonset" in caplog.text
        assert not folder.uninstall_marker.exists()


@pytest.mark.usefixtures("for_long")
def test_nobody_is_asked_for_once_the_server_has_ended(api: KubeApi, source: KubernetesSource, tmp_path: Path) -> None:
    folder = DataDir(tmp_path / "data")
    folder.create()
    watch = Watch(source, folder)
    while not api.seen("daemonsets"):
        time.sleep(0.01)
    assert watch.end() < LONG_SECONDS / 2
    assert len(api.seen("daemonsets")) == 1


def test_only_a_source_that_knows_a_cluster_is_asked(source: KubernetesSource, tmp_path: Path) -> None:
    assert isinstance(source, uninstall.Cluster)
    assert not isinstance(DirectorySource(tmp_path), uninstall.Cluster)


def test_the_api_servers_refusals_are_told_apart(api: KubeApi, source: KubernetesSource) -> None:
    assert source.has_daemonset(NAME)
    with pytest.raises(errors.NotFoundError):
        source.has_daemonset("../pods")
    api.token = "of nobody"
    with pytest.raises(errors.ForbiddenError):
        source.has_daemonset(NAME)
