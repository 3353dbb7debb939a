"""The modes of a DynaKube."""

from __future__ import annotations

from oneagent.common.dynakube.mode import MODES, Mode


def test_modes_that_put_an_agent_into_pods() -> None:
    assert {mode for mode in Mode if mode.injects} == {"applicationMonitoring", "cloudNativeFullStack"}


def test_modes_with_an_agent_on_each_node() -> None:
    assert {mode for mode in Mode if mode.runs_on_hosts} == {
        "classicFullStack",
        "cloudNativeFullStack",
        "hostMonitoring",
    }


def test_only_read_only_host_agents_have_a_volume_of_the_driver() -> None:
    assert {mode for mode in Mode if mode.has_host_volume} == {"hostMonitoring", "cloudNativeFullStack"}


def test_each_mode_has_the_name_that_agents_report() -> None:
    assert [mode.orchestration for mode in MODES] == [
        "application_monitoring",
        "classic_fullstack",
        "cloud_native_fullstack",
        "host_monitoring",
    ]
