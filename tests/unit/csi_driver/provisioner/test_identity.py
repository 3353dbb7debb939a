"""What decides which tree a DynaKube's pods get: its content, or its version together with its source."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from pathlib import Path

import pytest

from oneagent.common import dynakube
from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.common.identifiers import Version
from oneagent.csi_driver.metadata import database, desired_versions
from oneagent.csi_driver.metadata.desired_versions import DesiredState
from oneagent.csi_driver.provisioner import package_sources
from oneagent.csi_driver.store import AgentStore, store_key
from tests.fakes import images, packages
from tests.fakes import tenant as double
from tests.fakes.provisioner import FakeDynaKubeSource, Provisioning, list_corrupt, manifest

VERSION = Version(packages.VERSION)
HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@pytest.fixture
def other_tenant(tmp_path: Path) -> double.Tenant:
    """Another tenant, whose package of the same version has another library."""
    library = tmp_path / "library"
    library.write_bytes(b"\x7fELF of another tenant" * 50)
    server = double.Tenant(tenant="other123")
    server.release(VERSION, packages.build(tmp_path / "other-tenant.zip", prefix=packages.NESTED, library=library))
    return server


def library(p: Provisioning, name: str) -> bytes:
    return Path(p.data.agent(p.key(name)), PRELOAD_LIBRARY).read_bytes()


@pytest.mark.parametrize("pinned", ["", VERSION])
def test_two_tenants_with_the_same_version_have_a_tree_each(
    tmp_path: Path, server: double.Tenant, other_tenant: double.Tenant, source: FakeDynaKubeSource, pinned: str
) -> None:
    with other_tenant, Provisioning(tmp_path / "data", source) as p:
        source.put(manifest("one", server.api_url, version=pinned))
        p.wait_until(lambda: p.is_ready(VERSION, "one"), what=lambda: p.condition("one"))
        source.put(manifest("two", other_tenant.api_url, version=pinned))
        p.wait_until(lambda: p.is_ready(VERSION, "two"), what=lambda: p.condition("two"))
        assert b"another tenant" in library(p, "two")
        assert b"another tenant" not in library(p, "one")
        assert (server.count("package"), other_tenant.count("package")) == (1, 1)
        java = f"agent/bin/{VERSION}/any/liboneagentjava.so"
        assert Path(p.data.agent(p.key("one")), java).samefile(Path(p.data.agent(p.key("two")), java))
        assert list_corrupt(p.data) == []


@pytest.mark.parametrize(
    ("differs", "trees"),
    [
        ({}, 1),
        ({"skipCertCheck": True}, 2),
        ({"annotations": {"technologies": "java"}}, 1),
        ({"technologies": "java"}, 2),
        ({"networkZone": "zone"}, 1),
    ],
)
def test_dynakubes_share_a_tree_only_if_their_sources_are_the_same(
    tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, differs: dict[str, object], trees: int
) -> None:
    other = manifest("two", server.api_url)
    technologies = differs.get("technologies")
    if technologies:
        other["metadata"]["annotations"]["oneagent.dynatrace.com/technologies"] = technologies
    other["spec"] |= {key: value for key, value in differs.items() if key in ("skipCertCheck", "networkZone")}
    source.put(manifest("one", server.api_url), other)
    with Provisioning(tmp_path, source) as p:
        p.wait_until(lambda: p.is_ready(VERSION, "one") and p.is_ready(VERSION, "two"))
        assert len({p.key("one"), p.key("two")}) == trees == len(p.store.versions())
        assert server.count("package") == trees


@pytest.mark.parametrize("prefix", ["sha256-", "image-sha256-", "zip-sha256-", "SHA512-"])
def test_a_tenant_cannot_name_its_version_by_a_digest(
    tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path, prefix: str
) -> None:
    claimed = prefix + hashlib.sha256(b"an image").hexdigest()
    server.release(claimed, package)
    server.withdraw(VERSION)
    source.put(manifest("demo", server.api_url))
    with Provisioning(tmp_path, source) as p:
        p.wait_until(lambda: "no digest such as sha256-" in p.condition(), what=p.condition)
        assert claimed in p.condition()
        assert p.store.versions() == []


def test_a_decision_that_looks_like_a_digest_is_refused() -> None:
    with pytest.raises(dynakube.DynaKubeError, match=r"status\.codeModules\.version.*no digest"):
        dynakube.from_object(manifest("demo", "https://tenant.example/api", decided="sha256-" + "0" * 64))


def test_a_file_and_an_image_with_one_digest_are_different_trees(
    tmp_path: Path, source: FakeDynaKubeSource, package: Path
) -> None:
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    assert store_key.of_zip(digest) != store_key.of_image(f"sha256:{digest}")
    source.put(manifest("demo", image=f"file://{package}"))
    with Provisioning(tmp_path, source) as p:
        p.wait_until(lambda: p.is_ready(store_key.of_zip(digest)), what=p.condition)
        assert not p.store.has(store_key.of_image(f"sha256:{digest}"))


def test_a_file_that_changes_before_it_is_installed_never_gets_the_former_name(
    tmp_path: Path, source: FakeDynaKubeSource, package: Path, other_package: Path
) -> None:
    file, before = tmp_path / "agent.zip", hashlib.sha256(package.read_bytes()).hexdigest()
    shutil.copy(package, file)

    def replaced(name: str) -> None:
        if name == "download begun":
            shutil.copy(other_package, file)

    source.put(manifest("demo", image=f"file://{file}"))
    after = hashlib.sha256(other_package.read_bytes()).hexdigest()
    with Provisioning(tmp_path / "data", source, failpoint=replaced) as p:
        p.wait_until(lambda: p.is_ready(store_key.of_zip(after)), what=p.condition)
        assert not p.store.has(store_key.of_zip(before))


def test_a_pipe_in_place_of_a_zip_is_not_read(tmp_path: Path, source: FakeDynaKubeSource) -> None:
    os.mkfifo(tmp_path / "agent.zip")
    source.put(manifest("demo", image=f"file://{tmp_path}/agent.zip"))
    with Provisioning(tmp_path / "data", source) as p:
        p.wait_until(lambda: p.row() is not None, 10)
        assert p.store.versions() == []


def test_a_new_tenant_never_fills_the_former_tenants_tree(
    tmp_path: Path, server: double.Tenant, other_tenant: double.Tenant, source: FakeDynaKubeSource
) -> None:
    source.put(manifest("demo", server.api_url))
    with other_tenant, Provisioning(tmp_path / "data", source) as p:
        p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
        former = p.key()
        other_tenant.withdraw(VERSION)  # It names no version yet, so the former one stays.
        source.put(manifest("demo", other_tenant.api_url))
        p.data.discard(p.data.agent(former))
        p.wait_until(lambda: other_tenant.count("latest") > 0)
        for _ in range(5):
            p.provisioner.reconcile()
        assert other_tenant.count("package") == 0
        assert not p.store.has(former)


class TestAnOlderStore:
    def test_is_installed_anew_and_goes_when_no_pod_uses_it(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource, package: Path
    ) -> None:
        with Provisioning(tmp_path, source) as p:
            source.put(manifest("demo", server.api_url))
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            key = p.key()
        # As an older driver leaves it: names that prove nothing, in the store and in the rows.
        data = p.data
        for old in (VERSION, Version("sha256-" + "0" * 64)):
            shutil.copytree(data.agent(key), data.agent(old))
            shutil.copy(data.manifest(key), data.manifest(old))
        shutil.rmtree(data.agent(key))
        metadata = database.Database(data.database, data.database_lock)
        row = p.row()
        assert row is not None
        stale = DesiredState(row.name, row.tenant, VERSION, row.layer, good_version=VERSION, good_layer=row.layer)
        desired_versions.replace_all(metadata, data.dynakubes, [stale])
        metadata.close()
        assert not AgentStore(data).has(VERSION)
        with Provisioning(tmp_path, source) as again:
            again.wait_until(lambda: again.is_ready(VERSION), what=again.condition)
            assert (again.key(), server.count("package")) == (key, 2)
            again.wait_until(lambda: again.collect() or again.store.versions() == [key])

    def test_is_no_fallback_while_the_tenant_is_away(
        self, tmp_path: Path, server: double.Tenant, source: FakeDynaKubeSource
    ) -> None:
        source.put(manifest("demo", server.api_url))
        with Provisioning(tmp_path, source) as p:
            p.wait_until(lambda: p.is_ready(VERSION), what=p.condition)
            data, row = p.data, p.row()
        assert row is not None
        Path(data.agent(row.version)).rename(data.agent(VERSION))
        metadata = database.Database(data.database, data.database_lock)
        stale = DesiredState(row.name, row.tenant, VERSION, row.layer, good_version=VERSION, good_layer=row.layer)
        desired_versions.replace_all(metadata, data.dynakubes, [stale])
        metadata.close()
        server.withdraw(VERSION)
        with Provisioning(tmp_path, source) as again:
            again.wait_until(lambda: (row := again.row()) is not None and not row.version)
            found = again.row()
            assert found is not None
            assert (found.version, found.good_version) == ("", "")


class TestASignature:
    def test_is_bound_to_the_content(self, tmp_path: Path, source: FakeDynaKubeSource, server: double.Tenant) -> None:
        """A tree under the name of a signed digest comes from an image with that digest alone."""
        image = images.image(images.tar(*images.agent()), architecture=HERE)
        signed = dynakube.from_object(manifest("image", server.api_url, image=f"registry.example/agent@{image.digest}"))
        tenants = dynakube.from_object(manifest("tenant", server.api_url))
        key = store_key.of_image(image.digest)
        assert package_sources.serves(signed, key)
        assert not package_sources.serves(tenants, key)
        for claimed in (image.digest.replace(":", "-"), key):
            made = store_key.of_version(Version(claimed), "tenant", server.api_url)
            assert not store_key.is_key(made)
            assert not package_sources.serves(signed, made)
