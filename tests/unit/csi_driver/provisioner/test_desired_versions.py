"""Which version a DynaKube gets: the operator's, else the pinned, else the latest, else the one it had."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import pytest

from oneagent.common.identifiers import DynaKubeName, agent_version
from oneagent.csi_driver.data_dir import LayerId
from oneagent.csi_driver.store import store_key
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import OTHER, FakeDynaKubeSource, Provisioning, manifest

PINNED = "1.275.0.20230801-000000"
DEMO = DynaKubeName("demo")
DECIDED = "1.276.0.20230901-000000"


class TestPrecedence:
    def test_is_operator_then_user_then_tenant(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path
    ) -> None:
        for version in (PINNED, DECIDED):
            server.release(version, package)
        url = server.api_url
        source.put(manifest("all", url, version=PINNED, decided=DECIDED))
        source.put(manifest("pinned", url, version=PINNED), manifest("latest", url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(DECIDED, "all") and p.is_ready(PINNED, "pinned"))
            p.wait_until(lambda: p.is_ready(packages.VERSION, "latest"))
        assert server.count("latest") == 1, "who has a version is not asked for the latest"

    def test_ends_with_the_last_version_that_was_known(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "200ms"}))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            server.plan("latest", *[double.Fault(status=500)] * 3)
            before = server.count("latest")
            p.wait_until(lambda: server.count("latest") > before + 2)
            assert p.is_ready(packages.VERSION)

    def test_follows_the_latest(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, other_package: Path
    ) -> None:
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "200ms"}))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            server.release(OTHER, other_package)
            p.wait_until(lambda: p.is_ready(OTHER))
            p.wait_until(lambda: p.collect() == [packages.VERSION] or packages.VERSION not in p.versions())
            assert [agent_version(row.version) for row in p.provisioner.state.versions.values()] == [OTHER]


class TestATenantThatIsDownAtTheStart:
    def test_leaves_the_row_and_the_layer_as_they_were(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        server.properties = [{"section": "general", "key": "fromTenant", "value": "yes"}]
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "100ms"}))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            row = p.row()
        server.plan("connection", *[double.Fault(status=502)] * 5)
        before = server.count("connection")
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: server.count("connection") >= before + 3)
            assert p.row() == row
            assert p.collect() == []
            assert "fromTenant yes" in p.layer()
            p.wait_until(lambda: server.count("config") > 1, what="the tenant's being asked again")
            assert p.row() == row

    def test_keeps_the_layer_too_when_the_version_changes(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, other_package: Path
    ) -> None:
        server.properties = [{"section": "general", "key": "fromTenant", "value": "yes"}]
        server.release(OTHER, other_package)
        source.put(manifest("demo", server.api_url, version=packages.VERSION))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))
        server.plan("connection", double.Fault(status=502))
        source.put(manifest("demo", server.api_url, version=OTHER))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(OTHER))
            assert "fromTenant yes" in p.layer()

    def test_without_any_row_says_what_is_wrong(self, tmp_path: Path, source: FakeDynaKubeSource) -> None:
        source.put(manifest("demo", "http://127.0.0.1:1/api"))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "cannot connect" in p.condition(), what=p.condition)


class TestADatabaseThatIsOlderThanTheStore:
    """After a loss of power: neither the database nor its copy is synced."""

    @pytest.mark.parametrize("pinned", ["", packages.VERSION])
    @pytest.mark.parametrize("lost", ["database", "copy"])
    def test_removes_nothing_while_the_tenant_is_away(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, lost: str, pinned: str
    ) -> None:
        older = tmp_path / "older.db"
        with Provisioning(tmp_path / "data", source) as p:
            source.put(manifest("first", server.api_url, mode="hostMonitoring"))
            p.wait_until(lambda: p.row("first"))
            with contextlib.closing(sqlite3.connect(p.data.database)) as connection:
                connection.execute("VACUUM INTO ?", (str(older),))
            before = p.data.dynakubes.read_bytes()
            source.put(manifest("demo", server.api_url, version=pinned))
            p.wait_until(lambda: p.is_ready(packages.VERSION), what=p.condition)
            data, row = p.data, p.row()
        assert row is not None
        if lost == "database":
            for file in data.root.glob(f"{data.database.name}*"):
                file.unlink()
            older.rename(data.database)
        else:
            data.dynakubes.write_bytes(before)
        for endpoint in ("latest", "connection", "config"):
            server.plan(endpoint, *[double.Fault(status=502)] * 50)
        with Provisioning(tmp_path / "data", source, "--gc-interval=20ms") as again:
            again.wait_until(lambda: again.provisioner._poller.state(DEMO) is not None)
            again.wait_until(lambda: (found := again.row()) and found.version == row.version)
            assert again.collect() == []
            assert again.store.has(row.version)


class TestAnArchiveOnTheNode:
    def test_without_a_version_is_known_by_its_content(
        self, tmp_path: Path, source: FakeDynaKubeSource, package: Path
    ) -> None:
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        source.put(manifest(image=f"file://{package}"))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(store_key.of_zip(digest)), what=p.condition)
        assert package.exists()
        assert list((tmp_path / "tmp").iterdir()) == []

    def test_with_a_version_is_known_by_that(self, tmp_path: Path, source: FakeDynaKubeSource, package: Path) -> None:
        source.put(manifest(image=f"file://{package}", version=packages.VERSION))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))

    def test_that_changes_is_another_version(
        self, tmp_path: Path, source: FakeDynaKubeSource, package: Path, other_package: Path
    ) -> None:
        archive = tmp_path / "agent.zip"
        archive.write_bytes(package.read_bytes())
        source.put(manifest(image=f"file://{archive}"))
        with Provisioning(tmp_path / "data", source) as p:
            p.wait_until(lambda: p.row() and not p.condition())
            (tmp_path / "new").write_bytes(other_package.read_bytes())
            (tmp_path / "new").rename(archive)
            digest = hashlib.sha256(other_package.read_bytes()).hexdigest()
            p.wait_until(lambda: p.is_ready(store_key.of_zip(digest)))

    def test_that_is_missing_says_so(self, tmp_path: Path, source: FakeDynaKubeSource) -> None:
        source.put(manifest(image="file:///nowhere/agent.zip", version=packages.VERSION))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: "/nowhere/agent.zip: No such file" in p.condition(), what=p.condition)


class TestADynaKube:
    def test_that_becomes_unreadable_keeps_what_it_had(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            row = p.row()
            source.put_invalid("demo")
            source.put(manifest("second", server.api_url))
            p.wait_until(lambda: p.is_ready(packages.VERSION, "second"))
            assert p.collect() == []
            assert p.row() == row

    def test_in_a_file_that_nobody_can_read_at_the_start_keeps_what_it_had(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            p.data.host_agent_directory(DEMO).mkdir()
        broken = FakeDynaKubeSource()
        broken.put_invalid("all.yaml:3", "is not YAML")
        with Provisioning(tmp_path, broken) as p:
            p.wait_until(lambda: p.provisioner.planner.dynakube_names() is not None)
            assert p.collect() == []
            assert p.is_ready(packages.VERSION)
            assert p.data.host_agent_directory(DEMO).exists()

    def test_that_goes_takes_its_version_layers_and_host_folder_along(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            p.data.host_agent_directory(DEMO).mkdir()
            source.remove("demo")
            p.wait_until(lambda: p.row() is None)
            p.wait_until(lambda: p.collect() == [packages.VERSION] or p.versions() == [])
            left = [
                entry
                for name in ("agents", "manifests", "config-layers", "host-agents", "trash")
                for entry in (tmp_path / name).iterdir()
            ]
            assert left == []
            source.put(manifest("demo", server.api_url))
            p.wait_until(lambda: p.is_ready(packages.VERSION), what="the version of a DynaKube that came back")
            assert server.count("package") == 2

    def test_that_moves_to_another_tenant_takes_nothing_of_the_first_along(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path
    ) -> None:
        server.properties = [{"section": "general", "key": "fromFirst", "value": "yes"}]
        source.put(manifest("demo", server.api_url))
        with double.Tenant(tenant="second") as second, Provisioning(tmp_path, source) as p:
            second.release(packages.VERSION, package)
            second.revision = server.revision
            second.properties = [{"section": "general", "key": "fromSecond", "value": "yes"}]
            p.wait_until(lambda: p.is_ready(packages.VERSION))
            source.put(manifest("demo", second.api_url))
            p.wait_until(lambda: (row := p.row()) and row.tenant == "second" and row.layer)
            assert "fromSecond yes" in p.layer()
            assert "fromFirst" not in p.layer()

    def test_that_wants_no_views_has_a_row_without_a_version(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, mode="hostMonitoring"))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(p.row)
            row = p.row()
            assert row is not None
            assert (row.version, row.layer) == ("", LayerId(""))
            assert server.requests == []
