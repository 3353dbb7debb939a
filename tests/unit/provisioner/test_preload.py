"""A package that was carried to the node comes into the store, with its configuration, and stays until it is wanted."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from oneagent.common.names import Version
from oneagent.common.packages import sharing
from oneagent.csi_driver import people, preloads, processes
from oneagent.csi_driver.paths import DataFolder
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioning import OTHER, Desk, Provisioning, damaged, manifest, table

VERSION = Version(packages.VERSION)


class Command:
    """`oneagent-csi preload` on a data folder."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._root = root
        self._patch = patch
        self._capsys = capsys

    def __call__(self, archive: Path, *words: str) -> dict[str, Any]:
        self._patch.setattr(
            "sys.argv", ["oneagent-csi", "preload", f"--data-dir={self._root}", "-ojson", *words, str(archive)]
        )
        assert people.main() == 0
        answer: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return answer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def preload(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(root, monkeypatch, capsys)


class TestBeforeTheDriverIsThere:
    def test_it_waits_and_is_taken_by_the_first_provisioner(
        self, root: Path, preload: Command, package: Path, desk: Desk
    ) -> None:
        answer = preload(package)
        assert (answer["version"], answer["taken"]) == (VERSION, False)
        assert answer["bytes"] > 0
        desk.put()
        with Provisioning(root, desk) as p:
            p.until(lambda: p.store.has(VERSION))
            p.until(lambda: [row["state"] for row in table(p.folder, "versions")] == ["ready"])
            assert damaged(p.folder) == []
            assert list(p.folder.preloaded.iterdir()) == []

    def test_a_wanted_version_gets_its_configuration_and_is_not_downloaded(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, desk: Desk
    ) -> None:
        preload(package)
        server.properties = [{"section": "general", "key": "fromTenant", "value": "yes"}]
        desk.put(manifest("demo", server.api_url))
        with Provisioning(root, desk) as p:
            p.until(lambda: p.ready(VERSION), what=p.condition)
            assert "fromTenant yes" in p.layer()
        assert server.count("package") == 0


class TestWhileAProvisionerRuns:
    def test_a_version_whose_download_fails_is_there_at_once(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, desk: Desk
    ) -> None:
        desk.put(manifest("demo", server.api_url, version=OTHER))
        with Provisioning(root, desk) as p, processes.alone(root / "provisioner.lock"):
            p.until(lambda: "can't be installed" in p.condition())
            assert preload(package, f"--version={OTHER}")["taken"] is True
            p.until(lambda: p.ready(OTHER), what=p.condition)

    def test_what_is_there_already_is_refused(self, root: Path, preload: Command, package: Path, desk: Desk) -> None:
        preload(package)
        with pytest.raises(SystemExit, match=f"version {VERSION} is on this node already"):
            preload(package)
        desk.put()
        with Provisioning(root, desk) as p:
            p.until(lambda: p.store.has(VERSION))
            with pytest.raises(SystemExit, match=f"version {VERSION} is on this node already"):
                preload(package)

    def test_files_that_other_versions_have_are_shared(
        self, root: Path, preload: Command, package: Path, other_package: Path, desk: Desk
    ) -> None:
        desk.put()
        with Provisioning(root, desk) as p, processes.alone(root / "provisioner.lock"):
            preload(package)
            assert preload(other_package)["shared_bytes"] > 0
            assert p.store.versions() == sorted([VERSION, OTHER])
            assert damaged(p.folder) == []


class TestAVersionThatCannotBeTaken:
    def test_holds_up_no_other_and_says_why(
        self, root: Path, preload: Command, package: Path, other_package: Path, server: double.Tenant, desk: Desk
    ) -> None:
        first = "1.0.0.20230101-000000"
        desk.put(manifest("demo", server.api_url, version=first))
        with Provisioning(root, desk) as p:
            p.until(lambda: "can't be installed" in p.condition(), what=p.condition)
            in_the_way = p.folder.tenants / server.tenant
            in_the_way.write_text("no folder")
            preload(package, f"--version={first}")
            preload(other_package)
            p.until(lambda: p.store.has(OTHER))
            p.until(lambda: "can't be put into the store: File exists" in p.condition(), what=p.condition)
            in_the_way.unlink()
            p.until(lambda: p.ready(first), what=p.condition)


class TestAPin:
    def test_keeps_what_nobody_wants_until_its_time_is_over(
        self, root: Path, preload: Command, package: Path, desk: Desk
    ) -> None:
        preload(package, "--keep=1h")
        desk.put()
        with Provisioning(root, desk) as p:
            p.until(lambda: p.store.has(VERSION))
            assert p.collect() == []
            p.folder.pin(VERSION).write_text(str(time.time() - 1))
            assert p.collect() == [VERSION]
            assert list(p.folder.pins.iterdir()) == []

    def test_ends_when_a_dynakube_wants_the_version(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, desk: Desk
    ) -> None:
        preload(package)
        desk.put(manifest("demo", server.api_url))
        with Provisioning(root, desk) as p:
            p.until(lambda: p.ready(VERSION), what=p.condition)
            p.collect()
            assert list(p.folder.pins.iterdir()) == []
            desk.remove("demo")
            p.until(lambda: p.collect() == [VERSION])


class TestAPackageThatIsRefused:
    def test_leaves_nothing(self, root: Path, preload: Command, tmp_path: Path, package: Path) -> None:
        (tmp_path / "no.zip").write_bytes(b"no zip")
        nameless = packages.build(tmp_path / "nameless.zip", "current-version")
        for archive, problem in (
            (tmp_path / "no.zip", "not a readable zip"),
            (tmp_path / "absent.zip", "No such file"),
            (nameless, "does not say which version it is; give it with --version"),
        ):
            with pytest.raises(SystemExit, match=problem):
                preload(archive)
        cut = tmp_path / "cut.zip"
        content = bytearray(package.read_bytes())
        content[content.index(b"liboneagentproc.so") + 30] ^= 1
        cut.write_bytes(content)
        with pytest.raises(SystemExit, match="liboneagentproc"):
            preload(cut)
        folder = DataFolder(root)
        assert [*folder.preloaded.iterdir(), *folder.pins.iterdir(), *folder.tmp.iterdir()] == []

    def test_by_a_command_that_was_killed_is_tidied_up_but_not_that_of_one_at_work(
        self, root: Path, package: Path
    ) -> None:
        folder = DataFolder(root)
        folder.create()
        (folder.preloaded / ".dead").mkdir()
        reached, go_on = threading.Event(), threading.Event()

        def step(name: str) -> None:
            if name == "unpacked":
                reached.set()
                assert go_on.wait(10)

        at_work = threading.Thread(
            target=preloads.preload, args=(folder, package, VERSION, 60.0, sharing.Present(), step)
        )
        at_work.start()
        assert reached.wait(10)
        preloads.tidy(folder)
        assert os.listdir(folder.preloaded) == [f".{VERSION}"]
        with pytest.raises(preloads.NotPreloaded, match="by another command"):
            preloads.preload(folder, package, VERSION, 60.0, sharing.Present())
        go_on.set()
        at_work.join(10)
        assert preloads.waiting(folder) == [VERSION]
