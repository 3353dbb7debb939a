"""Settings of a DynaKube, and for how long they are taken from memory."""

from __future__ import annotations

from typing import Any

from oneagent.webhook.injection import dynakube_settings


def dynakube(host_group: str) -> dict[str, Any]:
    return {
        "apiVersion": "dynatrace.com/v1beta6",
        "kind": "DynaKube",
        "metadata": {"name": "prod", "namespace": "dynatrace", "uid": "u", "resourceVersion": "7"},
        "spec": {
            "apiUrl": "https://abc12345.live.dynatrace.com/api",
            "oneAgent": {"hostGroup": host_group, "applicationMonitoring": {}},
        },
    }


def test_one_object_is_read_once() -> None:
    manifest = dynakube("a")
    assert dynakube_settings.read(manifest, "dynatrace") is dynakube_settings.read(manifest, "dynatrace")


def test_another_state_with_the_same_version_counts_as_after_a_restore_of_etcd() -> None:
    assert dynakube_settings.read(dynakube("a"), "dynatrace").common.host_group == "a"
    assert dynakube_settings.read(dynakube("b"), "dynatrace").common.host_group == "b"
