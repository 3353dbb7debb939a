from __future__ import annotations

from typing import Any, Final

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common.dynakube.mode import Mode
from oneagent.common.kubernetes import fields as kubernetes_fields
from oneagent.operator.host_agents import node_conflicts, spec
from tests.unit.operator.host_agents import cases

MODE: Final = Mode.HOST_MONITORING
OWN = f"spec.oneAgent.{MODE}"


def read(obj: dict[str, Any]) -> spec.HostAgent:
    return spec.from_object(obj, MODE)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"image": "Not An Image"}, f"{OWN}.image is 'Not An Image': must be an image"),
        ({"image": 1}, f"{OWN}.image is '1': must be text"),
        ({"version": "1.277"}, f"{OWN}.version is '1.277': must be a complete version"),
        ({"args": "--a=b"}, f"{OWN}.args is '--a=b': must be a list"),
        ({"args": ["--a=b", 7]}, f"{OWN}.args[1] (a int, not shown): must be text such as"),
        ({"args": ["--a=b\nc"]}, f"{OWN}.args[0] (a str, not shown): must not contain line breaks"),
        ({"env": [{"value": "x"}]}, f"{OWN}.env[0].name is missing: must be the name"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, f"{OWN}.env[1].name is 'A': is given twice"),
        ({"env": ["A=b"]}, f"{OWN}.env[0] is 'A=b': must be a mapping"),
        ({"nodeSelector": {"pool": 1}}, f"{OWN}.nodeSelector[pool] is '1': must be text; put it in quotes"),
        ({"labels": ["a"]}, f"{OWN}.labels (a list, not shown): must be a mapping"),
        ({"annotations": {"a": True}}, f"{OWN}.annotations[a] is 'true': must be text"),
        ({"tolerations": {"key": "a"}}, f"{OWN}.tolerations (a dict, not shown): must be a list"),
        ({"priorityClassName": "High!"}, f"{OWN}.priorityClassName is 'High!': must be the name of an object"),
        ({"oneAgentResources": "1Gi"}, f"{OWN}.oneAgentResources is '1Gi': must be a mapping"),
        ({"oneAgentResources": {"limits": "1"}}, f"{OWN}.oneAgentResources.limits is '1': must be a mapping"),
        ({"dnsPolicy": "clusterfirst"}, f"{OWN}.dnsPolicy is 'clusterfirst': must be one of ClusterFirstWithHostNet"),
        (
            {"imagePullPolicy": "always"},
            f"{OWN}.imagePullPolicy is 'always': must be one of Always, IfNot",
        ),
        ({"rollingUpdate": 15}, f"{OWN}.rollingUpdate (a int, not shown): must be a mapping"),
        ({"rollingUpdate": {"maxUnavailable": -1}}, f"{OWN}.rollingUpdate.maxUnavailable is '-1': must be a number"),
        (
            {"rollingUpdate": {"maxUnavailable": True}},
            f"{OWN}.rollingUpdate.maxUnavailable is 'true': must be a",
        ),
        ({"rollingUpdate": {"maxSurge": "101%"}}, f"{OWN}.rollingUpdate.maxSurge is '101%': must be a number"),
        ({"rollingUpdate": {"maxUnavailable": 0}}, f"{OWN}.rollingUpdate.maxUnavailable is '0': must be at least 1"),
        (
            {"rollingUpdate": {"maxUnavailable": "0%", "maxSurge": 0}},
            f"{OWN}.rollingUpdate.maxUnavailable is '0%'",
        ),
        (
            {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": "10%"}},
            f"{OWN}.rollingUpdate.maxUnavailable is '1': must be 0 together with maxSurge",
        ),
        (
            {"additionalResourceAttributes": {"a b": "c"}},
            f"{OWN}.additionalResourceAttributes (a dict, not shown): has the key 'a b', which must read name",
        ),
        ({"secCompProfile": "../escape.json"}, f"{OWN}.secCompProfile is '../escape.json': must be a path below"),
        ({"storageHostPath": "relative"}, f"{OWN}.storageHostPath is 'relative': must be the absolute path"),
        ({"storageHostPath": "/"}, f"{OWN}.storageHostPath is '/': must be the absolute path"),
        ({"storageHostPath": "/a/../etc"}, f"{OWN}.storageHostPath is '/a/../etc': must be the absolute path"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_field_and_the_remedy(section: Any, message: str) -> None:
    with pytest.raises(kubernetes_fields.FieldError) as caught:
        read(cases.obj({"mode": MODE, "section": section}))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("section", "update"),
    [
        ({}, {"maxUnavailable": "20%"}),
        ({"rollingUpdate": {}}, {"maxUnavailable": "20%"}),
        ({"rollingUpdate": {"maxUnavailable": 15}}, {"maxUnavailable": 15}),
        ({"rollingUpdate": {"maxUnavailable": "15"}}, {"maxUnavailable": 15}),
        ({"rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0}}, {"maxUnavailable": "10%"}),
        ({"rollingUpdate": {"maxSurge": 0}}, {"maxUnavailable": 1}),
        ({"rollingUpdate": {"maxSurge": 2}}, {"maxUnavailable": 0, "maxSurge": 2}),
        ({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "5%"}}, {"maxUnavailable": 0, "maxSurge": "5%"}),
    ],
)
def test_a_rolling_update_comes_before_the_flag(section: Any, update: dict[str, Any]) -> None:
    obj = cases.obj({"mode": MODE, "section": section, "features": {"oneagent-max-unavailable": "20%"}})
    assert read(obj).rolling_update == update


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("oneagent-max-unavailable", "0"),
        ("oneagent-max-unavailable", "0%"),
        ("oneagent-max-unavailable", "101%"),
        ("oneagent-max-unavailable", "many"),
        ("oneagent-privileged", "yes"),
    ],
)
def test_a_feature_flag_that_cannot_be_used_is_named_as_its_annotation(flag: str, value: str) -> None:
    with pytest.raises(
        kubernetes_fields.FieldError, match=rf"annotations\[feature.dynatrace.com/{flag}\] is '{value}'"
    ):
        read(cases.obj({"mode": MODE, "features": {flag: value}}))


def test_flags_are_also_read_by_their_old_names() -> None:
    obj = cases.obj({"mode": MODE})
    obj["metadata"]["annotations"] = {"alpha.operator.dynatrace.com/feature-oneagent-max-unavailable": "7"}
    assert read(obj).rolling_update == {"maxUnavailable": 7}


@pytest.mark.parametrize(
    "image",
    [
        "oneagent",
        "linux/oneagent:1.277.0.20230914-094321",
        "localhost:5000/a/b_c/d-e:latest",
        "Registry.Example/oneagent@sha256:" + "0" * 64,
        "registry.example/oneagent:tag@sha256:" + "a" * 64,
    ],
)
def test_images_as_people_write_them_are_taken(image: str) -> None:
    assert read(cases.obj({"mode": MODE, "section": {"image": image}})).image == image


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    *("image", "version", "args", "env", "annotations", "labels", "nodeSelector", "tolerations", "priorityClassName"),
    *("oneAgentResources", "dnsPolicy", "secCompProfile", "storageHostPath"),
)


@hypothesis.given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4))
def test_whatever_somebody_writes_is_read_or_named(section: dict[str, Any]) -> None:
    obj = cases.obj({"mode": MODE, "section": section})
    node_conflicts.claim(obj)
    try:
        cases.daemon_set({"mode": MODE, "section": section})
    except kubernetes_fields.FieldError as error:
        assert error.field.startswith(("spec.oneAgent", "metadata.annotations"))
