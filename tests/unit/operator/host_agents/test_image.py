from __future__ import annotations

from typing import Any

import pytest

from oneagent.common import dynakube
from oneagent.common.kubernetes import fields
from oneagent.operator.host_agents import image, spec
from tests.unit.operator.host_agents import cases

OLD, NEW = "1.277.0.20230914-094321", "1.301.0.20240101-000000"


def choose(decided: str, running: str, **case: Any) -> image.Choice | None:
    desired = cases.desired({"mode": "classicFullStack", **case})
    return image.choose(desired.agent, desired.kube, decided, running)


def version(choice: image.Choice | None) -> str:
    assert choice is not None
    return choice.version


def test_a_newer_version_is_taken_and_an_older_one_is_not() -> None:
    assert version(choose(NEW, OLD)) == NEW
    chosen = choose(OLD, NEW)
    assert version(chosen) == NEW
    assert chosen is not None
    assert OLD in chosen.note
    assert "spec.oneAgent.classicFullStack.version" in chosen.note


def test_versions_are_compared_as_numbers() -> None:
    assert version(choose("1.100.0.20230914-094321", "1.99.0.20230914-094321")) == "1.100.0.20230914-094321"


def test_a_pinned_version_may_be_older() -> None:
    choice = choose(OLD, NEW, section={"version": OLD})
    assert choice is not None
    assert (choice.version, choice.note) == (OLD, "")


def test_what_runs_is_kept_while_nothing_is_known() -> None:
    assert version(choose("", OLD)) == OLD
    assert choose("", "") is None
    assert choose("", "latest") is None


def test_a_tag_of_the_users_own_image_holds_nothing_back() -> None:
    assert version(choose(OLD, "nightly")) == OLD


def test_an_image_comes_before_every_version() -> None:
    choice = choose(NEW, NEW, section={"image": "registry.example/oneagent:nightly", "version": OLD})
    assert choice == image.Choice("registry.example/oneagent:nightly", OLD)


def test_a_tenant_whose_address_is_no_registrys_needs_an_image() -> None:
    with pytest.raises(fields.FieldError, match=r"spec.apiUrl .*set an image in spec.oneAgent.classicFullStack.image"):
        choose(NEW, "", spec={"apiUrl": "https://dynatrace.example/E/abc/api"})


PUBLIC = f"public.ecr.aws/dynatrace/dynatrace-oneagent:{NEW}"


def choose_public(mode: str = "hostMonitoring", public: str = PUBLIC, **section: Any) -> image.Choice | None:
    case = {"mode": mode, "section": section, "features": {"use-public-registry": "true"}, "decided": OLD}
    kube = dynakube.from_object(cases.obj(case))
    return image.choose(spec.from_object(cases.obj(case), kube.mode), kube, OLD, OLD, public)


def test_an_image_in_a_public_registry_is_taken_as_the_operator_has_decided_it() -> None:
    assert choose_public() == image.Choice(PUBLIC, NEW)
    assert choose_public(public="") is None


def test_an_image_of_the_user_comes_before_a_public_registry() -> None:
    assert choose_public(image="registry.example/oneagent:7") == image.Choice("registry.example/oneagent:7", "7")


def test_classic_agents_come_from_the_tenants_registry() -> None:
    choice = choose_public("classicFullStack")
    assert choice is not None
    assert choice.image == f"abc12345.live.dynatrace.com/linux/oneagent:{OLD}"
