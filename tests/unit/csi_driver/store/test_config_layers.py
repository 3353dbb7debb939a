"""Config layers: the tenant's settings over the version's own, one layer for each content, there before the version."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from oneagent.common import unpack
from oneagent.common.identifiers import DynaKubeName, Version
from oneagent.csi_driver.data_dir import VolumeId
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.store import config_layers
from tests.fakes import packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, manifest

VERSION = packages.VERSION


def prop(key: str, value: str) -> dict[str, str]:
    return {"section": "general", "key": key, "value": value}


class TestALayer:
    def test_holds_the_package_the_tenant_and_the_dynakube(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        server.properties = [prop("fromTenant", "yes"), prop("libjava", "off"), prop("bad key", "x")]
        source.put(manifest("demo", server.api_url, networkZone="zone"))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION))
            lines = p.layer().splitlines()
        assert "[general]" in lines
        for line in ("libjava off", "fromTenant yes", f"tenant {double.TENANT}", f"tenantToken {server.tenant_token}"):
            assert line in lines
        assert f"serverAddress {{{';'.join(server.endpoints)}}}" in lines
        assert not any("bad" in line for line in lines)

    def test_is_each_tenants_own_with_the_same_version(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path
    ) -> None:
        server.properties = [prop("whose", "first")]
        with double.Tenant(tenant="second") as second:
            second.release(VERSION, package)
            second.properties = [prop("whose", "second")]
            source.put(manifest("a", server.api_url), manifest("b", second.api_url))
            with Provisioning(tmp_path, source) as p:
                p.wait_until(lambda: p.is_ready(VERSION, "a") and p.is_ready(VERSION, "b"))
                assert "whose first" in p.layer("a")
                assert "tenant second" in p.layer("b")
                assert "whose second" in p.layer("b")
                assert (server.count("package"), second.count("package")) == (1, 1)

    def test_is_in_the_row_before_the_version_is_in_the_store(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        seen: list[tuple[bool, str]] = []

        def failpoint(name: str) -> None:
            if name == "prepared":
                row = p.row()
                assert row is not None
                seen.append((p.store.has(row.version), p.layer()))

        server.properties = [prop("fromTenant", "yes")]
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source, failpoint=failpoint) as p:
            p.wait_until(lambda: p.is_ready(VERSION))
        ((visible, text),) = seen
        assert not visible
        assert "fromTenant yes" in text

    def test_is_waited_for_by_a_version_that_an_earlier_process_had_begun(
        self, tmp_path: Path, source: FakeDynaKubeSource, package: Path
    ) -> None:
        with double.Tenant() as hanging:
            hanging.plan("connection", double.Fault(stall_after=1))
            source.put(manifest("demo", hanging.api_url, image=f"file://{package}", version=VERSION))
            p = Provisioning(tmp_path, source)
            p.provisioner.state.set_desired([DesiredState(DynaKubeName("demo"), version=Version(VERSION))])
            with p:
                p.wait_until(lambda: hanging.count("connection"))
                time.sleep(0.3)
                assert p.store.versions() == [], "no tenant has told what should be in its layer"
                hanging.closing.set()
                p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)


class TestANewRevision:
    def test_makes_a_new_layer_and_the_old_one_stays_for_its_pods(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "50ms"}))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION))
            old = p.row()
            assert old is not None
            server.properties, server.revision = [prop("fresh", "yes")], 2
            p.wait_until(lambda: "fresh yes" in p.layer())
            new = p.row()
            assert new is not None
            pod = VolumeRecord(
                id=VolumeId("csi-1"),
                mode="app",
                dynakube="demo",
                target="/t",
                state="mounted",
                tenant=old.tenant,
                version=old.version,
                layer=old.layer,
            )
            put_volume(p, pod)
            p.collect()
            assert layers(p) == {old.layer, new.layer}
            with p.provisioner.state._database.transaction() as connection:
                connection.execute("DELETE FROM volumes")
            p.collect()
            assert layers(p) == {new.layer}

    def test_without_a_change_makes_nothing_new(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "50ms"}))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION))
            before = p.row()
            p.wait_until(lambda: server.count("config") > 3)
            assert p.row() == before
        assert [query["revision"] for query in (r.query for r in server.requests if r.endpoint == "config")][:2] == [
            ["0"],
            ["1"],
        ]


class TestALayerThatCannotBeWritten:
    def test_holds_up_nothing_else(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path
    ) -> None:
        source.put(manifest("demo", server.api_url, annotations={"poll-interval": "50ms"}))
        with Provisioning(tmp_path, source) as p, double.Tenant(tenant="second") as second:
            p.wait_until(lambda: p.is_ready(VERSION))
            (p.data.config_layers / "second").write_text("in the way")
            second.release(VERSION, package)
            source.put(manifest("broken", second.api_url))
            p.wait_until(
                lambda: "can't be installed" in p.condition("broken") and "File exists" in p.condition("broken")
            )
            server.properties, server.revision = [prop("fresh", "yes")], 2
            p.wait_until(lambda: "fresh yes" in p.layer())
            (p.data.config_layers / "second").unlink()
            p.wait_until(lambda: p.is_ready(VERSION, "broken"))
            assert f"tenant {second.tenant}" in p.layer("broken")


def layers(p: Provisioning) -> set[str]:
    return {layer.name for tenant in p.data.config_layers.iterdir() for layer in tenant.iterdir()}


def put_volume(p: Provisioning, row: VolumeRecord) -> None:
    """As the server would."""
    fields = {name: getattr(row, name) for name in row.__slots__}
    names = ", ".join(fields)
    with p.provisioner.state._database.transaction() as connection:
        connection.execute(f"INSERT INTO volumes ({names}) VALUES ({', '.join(f':{name}' for name in fields)})", fields)


class TestAPackagesOwnFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / config_layers.CONFIG_FILE
        file.parent.mkdir(parents=True)
        return file

    def test_is_read_also_by_a_link_within_the_tree(self, tmp_path: Path, file: Path) -> None:
        assert config_layers.read_config(tmp_path) == ""
        (tmp_path / "real.conf").write_bytes(b"[general]\r\nlibjava on\r\n")
        file.symlink_to("../../real.conf")
        assert config_layers.read_config(tmp_path) == "[general]\nlibjava on\n"

    def test_that_is_too_large_is_refused(self, tmp_path: Path, file: Path) -> None:
        file.write_bytes(b"x" * config_layers.MAX_CONFIG_BYTES)
        assert len(config_layers.read_config(tmp_path)) == config_layers.MAX_CONFIG_BYTES
        file.write_bytes(b"x" * (config_layers.MAX_CONFIG_BYTES + 1))
        with pytest.raises(unpack.PackageTooLargeError, match="larger than 2 MiB"):
            config_layers.read_config(tmp_path)

    @pytest.mark.parametrize("kind", ["outside", "absolute", "loop", "pipe", "directory"])
    def test_that_is_no_file_of_the_tree_is_refused(self, tmp_path: Path, file: Path, kind: str) -> None:
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "directory":
            file.mkdir()
        else:
            targets = {"outside": "../../../other", "absolute": "/etc/passwd", "loop": file.name}
            file.symlink_to(targets[kind])
        with pytest.raises(unpack.UnsafePackageError, match=config_layers.CONFIG_FILE):
            config_layers.read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("[general]\ntenant abc12345\ntenantToken dt0a01.agents\n", True),
        ("[general]\ntenant abc12345\nserverAddress {https://ag.example}\n", False),
        ("[general]\nlibjava on\n", False),
        ("[java]\ntenantToken elsewhere\n", False),
        ("[general]\ntenant demo\n", True),
    ],
    ids=["token", "no token", "nothing", "another section", "no tenant"],
)
def test_a_layer_is_complete_with_the_token_or_without_a_tenant(tmp_path: Path, text: str, complete: bool) -> None:
    assert not config_layers.is_complete(tmp_path, "demo")
    file = tmp_path / config_layers.CONFIG_FILE
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert config_layers.is_complete(tmp_path, "demo") is complete


def test_a_layer_of_one_file_keeps_its_name_and_each_further_file_makes_another_one() -> None:
    alone = {"agent/conf/a": b"text"}
    # Layers of earlier drivers have this name.
    assert config_layers.layer_id(alone) == hashlib.sha256(b"text").hexdigest()[:16]
    named = [
        {**alone, **more} for more in ({}, {"b": b"x"}, {"b": b"y"}, {"c": b"x"}, {"b": b""}, {"b": b"x", "c": b""})
    ]
    assert len({config_layers.layer_id(contents) for contents in named}) == len(named)
