"""Kinds of agents differ in their profiles only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oneagent.common import agents
from oneagent.common.agents.profile import AgentProfile

ROOT = Path(__file__).parents[4]
SOURCES = ("common", "csi_driver", "operator", "webhook", "sidecars")
OWN = ROOT / "common/oneagent/common/agents"
ONLY_DYNAKUBES = ("older.dynakube", "package.dynakube", "k8s_objects.name(kube)")
"""Host agents, packages of tenants and tokens are of DynaKubes only."""
NAMES = re.compile(r"liboneagentproc|ruxitagentproc\.conf|\bDT_[A-Z]")


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_else_names_files_and_variables_of_an_agent(source: str) -> None:
    modules = [path for path in (ROOT / source / "oneagent").rglob("*.py") if OWN not in path.parents]
    naming = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in modules
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if NAMES.search(line)
    ]
    assert not naming, "\n".join(naming)


@pytest.mark.parametrize("profile", agents.PROFILES, ids=lambda profile: profile.kind)
class TestEachKind:
    def test_it_is_found_by_its_name_and_by_its_library(self, profile: AgentProfile, tmp_path: Path) -> None:
        assert agents.get(profile.kind) is profile
        library = tmp_path / profile.preload_library
        library.parent.mkdir(parents=True)
        assert agents.of_tree(tmp_path) is None
        library.touch()
        assert agents.of_tree(tmp_path) is profile

    def test_its_paths_are_below_a_view_or_absolute(self, profile: AgentProfile) -> None:
        for path in (
            *(profile.preload_library, profile.container_file, profile.identity_file),
            *profile.config_files,
        ):
            assert not path.startswith("/")
            assert ".." not in path.split("/")
        assert profile.install_path.startswith("/")
        # In a read-only view a mount point has to exist.
        assert profile.container_path.startswith("/") or profile.container_path in profile.mount_files
        assert set(profile.config_files) <= set(profile.mount_files)


def test_messages_name_the_object_that_users_know() -> None:
    assert agents.describe_object("shop") == "DynaKube shop"
    assert agents.describe_object("otelinj.shop") == "OpenTelemetryInjection shop"
    assert agents.describe_object("otelinj.shop", quoted=True) == "OpenTelemetryInjection 'shop'"


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_else_writes_a_kind_before_a_name(source: str) -> None:
    """A DynaKube's name may be that of the object which became one: `describe_object` has both."""
    modules = [path for path in (ROOT / source / "oneagent").rglob("*.py") if OWN not in path.parents]
    naming = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in modules
        for line in path.read_text().splitlines()
        if re.search(r"DynaKube \{", line) and not any(only in line for only in ONLY_DYNAKUBES)
    ]
    assert not naming, "\n".join(naming)


def test_kinds_share_no_library_and_no_configuration() -> None:
    # By these a version and a config layer are told apart.
    assert len({profile.preload_library for profile in agents.PROFILES}) == len(agents.PROFILES)
    assert len({profile.config_file for profile in agents.PROFILES}) == len(agents.PROFILES)
    assert len({profile.kind for profile in agents.PROFILES}) == len(agents.PROFILES)
