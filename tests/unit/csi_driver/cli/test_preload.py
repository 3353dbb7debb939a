"""A package that was carried to the node comes into the store, with its configuration, and stays until it is wanted."""

from __future__ import annotations

import json
import os
import platform
import pty
import re
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oneagent.common import unpack
from oneagent.common.identifiers import Version
from oneagent.common.oci import reference as oci_reference
from oneagent.common.unpack import dedup, early_files, zip
from oneagent.csi_driver.cli import main
from oneagent.csi_driver.cli import preload as cli_preload
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import process
from oneagent.csi_driver.store import preload as store_preload
from oneagent.csi_driver.store import store_key
from oneagent.csi_driver.store.preload import PreloadOrigin
from tests.fakes import images, packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, FakeDynaKubeSource, Provisioning, list_corrupt, manifest, table

VERSION = Version(packages.VERSION)
ABSENT = "1.0.0.20230101-000000"
"""A version that the tenant does not have."""
ORIGIN = PreloadOrigin(version=VERSION, dynakube="demo", sha256="0" * 64, keep_until=time.time() + 3600)
HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def an_image(text: str = "") -> images.Image:
    """With an agent; `text` makes it another one."""
    entries = [*images.agent(), images.Entry(f"{packages.NESTED}note", text.encode())]
    return images.image(images.tar(*entries), architecture=HERE)


class Command:
    """`oneagent-csi preload` on a data folder."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._root = root
        self._patch = patch
        self._capsys = capsys

    def __call__(self, archive: Path | str, *words: str, dynakube: str = "demo") -> dict[str, Any]:
        if str(archive).endswith(".zip"):
            words = (f"--dynakube={dynakube}", *words)
        self._patch.setattr(
            "sys.argv", ["oneagent-csi", "preload", f"--data-dir={self._root}", "-ojson", *words, str(archive)]
        )
        code = main.main()
        answer: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        if code:
            assert (code, answer["error"]["reason"]) == (1, "NotPreloaded")
            raise SystemExit(answer["error"]["message"])
        return answer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def preload(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(root, monkeypatch, capsys)


class TestBeforeTheDriverIsThere:
    def test_it_waits_for_the_first_provisioner_and_its_dynakube(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        answer = preload(package)
        assert (answer["version"], answer["taken"]) == (VERSION, False)
        assert answer["bytes"] > 0
        with Provisioning(root, source) as p:
            source.put()
            p.provisioner.reconcile()
            assert p.store.versions() == []
            source.put(manifest("demo", server.api_url, version=OTHER))
            p.wait_until(lambda: VERSION in p.versions())
            p.wait_until(lambda: [row["state"] for row in table(p.data, "versions")] == ["ready"])
            assert list_corrupt(p.data) == []
            assert list(p.data.preloaded.iterdir()) == []

    def test_a_wanted_version_gets_its_configuration_and_is_not_downloaded(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        preload(package)
        server.properties = [{"section": "general", "key": "fromTenant", "value": "yes"}]
        source.put(manifest("demo", server.api_url))
        with Provisioning(root, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            assert "fromTenant yes" in p.layer()
        assert server.count("package") == 0


class TestWhileAProvisionerRuns:
    def test_a_version_whose_download_fails_is_there_at_once(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, version=OTHER))
        with Provisioning(root, source) as p, process.exclusive_lock(root / "provisioner.lock"):
            p.wait_until(lambda: "can't be installed" in p.condition())
            assert preload(package, f"--version={OTHER}")["taken"] is True
            p.wait_until(lambda: p.is_ready(OTHER), what=p.condition)

    def test_what_is_there_already_is_refused(
        self, root: Path, preload: Command, tmp_path: Path, package: Path, source: FakeDynaKubeSource
    ) -> None:
        image = an_image()
        layout = images.write_layout(tmp_path / "layout", (image, {}))
        for what, title in ((package, f"version {VERSION} for DynaKube demo"), (layout, f"image {image.digest}")):
            preload(what)
            with pytest.raises(SystemExit, match=f"{title} is on this node already"):
                preload(what)
        source.put()
        with Provisioning(root, source) as p:
            p.wait_until(lambda: p.store.has(store_key.of_image(image.digest)))
            with pytest.raises(SystemExit, match="is on this node already"):
                preload(layout)

    def test_files_that_other_versions_have_are_shared(
        self,
        root: Path,
        preload: Command,
        package: Path,
        other_package: Path,
        server: double.Tenant,
        source: FakeDynaKubeSource,
    ) -> None:
        source.put(manifest("demo", server.api_url, version=ABSENT))
        with Provisioning(root, source) as p, process.exclusive_lock(root / "provisioner.lock"):
            preload(package)
            assert preload(other_package)["shared_bytes"] > 0
            assert p.versions() == sorted([VERSION, OTHER])
            assert list_corrupt(p.data) == []


class TestAVersionThatCannotBeTaken:
    def test_holds_up_no_other_and_says_why(
        self,
        root: Path,
        preload: Command,
        package: Path,
        other_package: Path,
        server: double.Tenant,
        source: FakeDynaKubeSource,
    ) -> None:
        first = ABSENT
        source.put(manifest("demo", server.api_url, version=first))
        with Provisioning(root, source) as p:
            p.wait_until(lambda: "can't be installed" in p.condition(), what=p.condition)
            in_the_way = p.data.config_layers / server.tenant
            in_the_way.write_text("no folder")
            preload(package, f"--version={first}")
            preload(other_package)
            p.wait_until(lambda: OTHER in p.versions())
            p.wait_until(lambda: "can't be put into the store: File exists" in p.condition(), what=p.condition)
            in_the_way.unlink()
            p.wait_until(lambda: p.is_ready(first), what=p.condition)


class TestAPin:
    def test_keeps_what_nobody_wants_until_its_time_is_over(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        preload(package, "--keep=1h")
        source.put(manifest("demo", server.api_url, version=ABSENT))
        with Provisioning(root, source) as p:
            p.wait_until(lambda: p.versions() == [VERSION])
            assert p.collect() == []
            (pin,) = p.data.pins.iterdir()
            pin.write_text(str(time.time() - 1))
            p.wait_until(lambda: p.collect() == [VERSION] or p.versions() == [])
            assert list(p.data.pins.iterdir()) == []

    def test_ends_when_a_dynakube_wants_the_version(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        preload(package)
        source.put(manifest("demo", server.api_url))
        with Provisioning(root, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            p.collect()
            assert list(p.data.pins.iterdir()) == []
            source.remove("demo")
            p.wait_until(lambda: p.collect() == [VERSION])


class TestAnImageInAFolder:
    def test_is_the_version_that_its_digest_says(
        self, root: Path, preload: Command, tmp_path: Path, source: FakeDynaKubeSource, server: double.Tenant
    ) -> None:
        image = an_image()
        folder = images.write_layout(tmp_path / "layout", (images.index((f"linux/{HERE}", image)), {}))
        index = json.loads((folder / "index.json").read_text())["manifests"][0]["digest"]
        version = store_key.of_image(index)
        answer = preload(folder)
        assert (answer["version"], answer["taken"]) == (version, False)
        away = f"registry.invalid/team/agent@{index}"
        source.put(manifest("demo", server.api_url, image=away))
        with Provisioning(root, source) as p:
            p.wait_until(lambda: p.is_ready(version), what=p.condition)
            assert list_corrupt(p.data) == []

    def test_is_told_by_its_name_among_several(self, preload: Command, tmp_path: Path) -> None:
        one, two = an_image("one"), an_image("two")
        folder = images.write_layout(
            tmp_path / "layout", (one, images.index_entry("1")), (two, images.index_entry("2"))
        )
        with pytest.raises(SystemExit, match=r"has 2 images, 1, 2: choose one by :NAME or @sha256:"):
            preload(folder)
        assert preload(f"oci-layout:{folder}:2")["version"] == store_key.of_image(two.digest)
        assert preload(f"oci-layout:{folder}@{one.digest}")["version"] == store_key.of_image(one.digest)

    def test_that_is_refused_leaves_nothing(
        self, root: Path, preload: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = an_image()
        folder = images.write_layout(tmp_path / "layout", (image, {}))
        for flag in (f"--version={VERSION}", "--dynakube=demo"):
            with pytest.raises(SystemExit, match="leave --version and --dynakube out"):
                preload(folder, flag)
        with pytest.raises(SystemExit, match="2"):
            preload("oci-layout:relative")
        assert "the path must be absolute" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="oci-layout: No such file"):
            preload(tmp_path)
        layer = images.blob(folder, image.layers[0])
        content = bytearray(layer.read_bytes())
        content[-1] ^= 1
        layer.write_bytes(content)
        with pytest.raises(SystemExit, match=image.layers[0].removeprefix("sha256:")):
            preload(folder)
        images.write_layout(folder, (images.image(images.tar(images.Entry("no/agent")), architecture=HERE), {}))
        with pytest.raises(SystemExit, match="the package has no agent/"):
            preload(folder)
        tar = tmp_path / "image.tar"
        tar.write_bytes(images.tar(images.MINIMAL))
        with pytest.raises(
            SystemExit, match=r"convert it to an OCI layout: skopeo copy docker-archive:.*image\.tar oci:DIRECTORY"
        ):
            preload(tar)
        tar.write_bytes(images.tar(images.Entry("oci-layout", b"{}")))
        with pytest.raises(SystemExit, match=r"convert it to an OCI layout: tar -xf .*image\.tar -C DIRECTORY"):
            preload(tar)
        data = DataDir(root)
        assert [*data.preloaded.iterdir(), *data.pins.iterdir(), *data.tmp.iterdir()] == []


def test_an_image_is_decompressed_once(root: Path, tmp_path: Path) -> None:
    local = cli_preload.open_package(
        oci_reference.LayoutReference(images.write_layout(tmp_path / "layout", (an_image(), {}))), Version(""), ""
    )
    data = DataDir(root)
    data.create()
    early, late = list[int](), list[int]()
    done = store_preload.preload(
        data,
        partial(local.read, lambda _done, _total: None),
        local.origin,
        dedup.ExistingFiles(),
        on_begin=lambda _size: late.append,
        on_early=early.append,
    )
    assert done.bytes > 0
    assert (sum(early), late) == (done.bytes, [])


def shown_on_terminal(root: Path, what: Path, *flags: str, **environment: str) -> tuple[bytes, bytes]:
    """Preload a package; return what stdout, a pipe, and stderr, a terminal, got."""
    terminal, line = pty.openpty()
    command = [sys.executable, "-m", "oneagent.csi_driver.cli.main", "preload", f"--data-dir={root}", *flags, str(what)]
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = {**inherited, "TERM": "xterm", **environment}
    with os.fdopen(terminal, "rb", buffering=0) as seen:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=line, env=environment, timeout=60, check=True)
        # The last byte ends the reading, since an empty terminal would never end it.
        os.write(line, b".")
        os.close(line)
        return done.stdout, seen.read(1 << 16).removesuffix(b".")


@pytest.mark.parametrize("kind", ["zip", "image"])
def test_a_terminal_shows_bars(root: Path, tmp_path: Path, package: Path, kind: str) -> None:
    what = package if kind == "zip" else images.write_layout(tmp_path / "layout", (an_image(), {}))
    done, shown = shown_on_terminal(root, what, *(["--dynakube=demo"] if kind == "zip" else []))
    assert b"unpacking" in shown
    assert (b"checking" in shown) == (kind == "image")
    assert re.search(rb"\x1b\[[0-9;]+m", shown)
    assert b"waits for the provisioner" in b" ".join(done.split())  # COLUMNS may be set.


def test_bars_have_no_colours_with_no_color(root: Path, package: Path) -> None:
    _, shown = shown_on_terminal(root, package, "--dynakube=demo", NO_COLOR="1")
    assert b"unpacking" in shown
    assert not re.search(rb"\x1b\[[0-9;]*m", shown)


def test_a_dumb_terminal_shows_nothing_beside_the_result(root: Path, package: Path) -> None:
    _, shown = shown_on_terminal(root, package, "--dynakube=demo", TERM="dumb")
    assert shown == b""


class TestAZipWithoutItsSource:
    def test_is_refused_with_the_remedy(self, root: Path, preload: Command, package: Path) -> None:
        with pytest.raises(SystemExit, match="set --dynakube to the DynaKube that it is for"):
            preload(package, dynakube="")

    @pytest.mark.parametrize("version", ["sha256-" + "0" * 64, "image-sha256-" + "0" * 64, "../1", "a" * 101])
    def test_takes_no_version_that_claims_a_content(
        self, preload: Command, package: Path, capsys: pytest.CaptureFixture[str], version: str
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            preload(package, f"--version={version}")
        assert "no digest such as sha256-" in capsys.readouterr().out

    def test_serves_no_dynakube_with_another_source(
        self, root: Path, preload: Command, package: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        preload(package, dynakube="other")
        source.put(manifest("demo", server.api_url), manifest("other", server.api_url, skipCertCheck=True))
        with Provisioning(root, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION) and p.is_ready(VERSION, "other"))
            assert server.count("package") == 1
            assert len(p.store.versions()) == 2


def test_a_package_of_an_older_driver_is_discarded(root: Path, source: FakeDynaKubeSource) -> None:
    data = DataDir(root)
    data.create()
    (data.preloaded / VERSION / store_preload.TREE).mkdir(parents=True)
    source.put()
    with Provisioning(root, source) as p:
        p.wait_until(lambda: list(data.preloaded.iterdir()) == [])
        assert p.store.versions() == []


def test_a_package_whose_time_is_over_is_discarded(root: Path, preload: Command, package: Path) -> None:
    preload(package, "--keep=0s")
    assert store_preload.list_waiting(DataDir(root), time.time() + 1) == []
    assert list(DataDir(root).preloaded.iterdir()) == []


class TestAPackageThatIsRefused:
    def test_leaves_nothing(self, root: Path, preload: Command, tmp_path: Path, package: Path) -> None:
        (tmp_path / "no.zip").write_bytes(b"no zip")
        nameless = packages.build(tmp_path / "nameless.zip", "current-version")
        for archive, problem in (
            (tmp_path / "no.zip", "not a readable zip"),
            (tmp_path / "absent.zip", "No such file"),
            (nameless, "names no version; set --version"),
        ):
            with pytest.raises(SystemExit, match=problem):
                preload(archive)
        cut = tmp_path / "cut.zip"
        content = bytearray(package.read_bytes())
        content[content.index(b"liboneagentproc.so") + 30] ^= 1
        cut.write_bytes(content)
        with pytest.raises(SystemExit, match="liboneagentproc"):
            preload(cut)
        data = DataDir(root)
        assert [*data.preloaded.iterdir(), *data.pins.iterdir(), *data.tmp.iterdir()] == []

    def test_by_a_command_that_was_killed_is_tidied_up_but_not_that_of_one_at_work(
        self, root: Path, package: Path
    ) -> None:
        data = DataDir(root)
        data.create()
        (data.preloaded / ".dead").mkdir()
        reached, go_on = threading.Event(), threading.Event()

        def read(_early: early_files.EarlyFiles) -> unpack.AgentPackage:
            return zip.read(package)

        def failpoint(name: str) -> None:
            if name == "unpacked":
                reached.set()
                assert go_on.wait(10)

        at_work = threading.Thread(
            target=store_preload.preload, args=(data, read, ORIGIN, dedup.ExistingFiles(), failpoint)
        )
        at_work.start()
        assert reached.wait(10)
        store_preload.remove_leftovers(data)
        assert os.listdir(data.preloaded) == [f".{ORIGIN.name}"]
        with pytest.raises(store_preload.NotPreloadedError, match="by another command"):
            store_preload.preload(data, read, ORIGIN, dedup.ExistingFiles())
        go_on.set()
        at_work.join(10)
        assert [each.origin for each in store_preload.list_waiting(data, time.time())] == [ORIGIN]
