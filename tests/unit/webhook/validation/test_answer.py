"""The result as a whole: complete, stable, and only about changes."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common.dynakube.api import versions
from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import CASES, case
from tests.unit.common.dynakube.api.strategies import SWIFTLY, described
from tests.unit.webhook.validation.dynakubes import MISSING, SEVERAL, UNKNOWN, errors, kube, mode, only


class TestTheResult:
    def test_lists_all_errors_numbered_in_a_stable_order(self) -> None:
        new = kube({"apiUrl": "", "oneAgent": {"hostMonitoring": {"version": "1"}, "classicFullStack": {}}})
        found = errors(new)
        assert validation.message(found).splitlines() == [
            "3 error(s) found in the Dynakube",
            f"1. {MISSING}",
            f"2. {SEVERAL}Make sure that spec.oneAgent has only one of: classicFullStack, hostMonitoring.",
            "3. spec.oneAgent.hostMonitoring.version is '1', which is not a complete version. Make sure that it reads "
            "major.minor.patch.timestamp, such as 1.277.0.20230914-094321.",
        ]
        assert errors(copy.deepcopy(new)) == found

    def test_is_empty_for_a_valid_dynakube(self) -> None:
        assert validation.validate(kube(), None, UNKNOWN) == validation.ValidationResult()

    @pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
    def test_is_the_same_for_a_manifest_and_for_its_newest_form(self, path: Any) -> None:
        """Except for short versions, which only old versions of the API accept."""
        written, newest = case(path)
        assert errors(written) == tuple(message for message in errors(newest) if "is '1.200.0'" not in message)

    def test_names_fields_of_the_newest_version_and_says_so(self) -> None:
        new = kube({"codeModules": {"namespaceSelector": {"matchLabels": {"a b": ""}}}}, version="v1alpha1")
        result = validation.validate(new, None, UNKNOWN)
        assert "spec.oneAgent.applicationMonitoring.namespaceSelector has the key 'a b'" in only(result.errors)
        assert "The errors name fields of v1beta6; this DynaKube was written in v1alpha1." in result.warnings

    def test_is_an_error_for_an_object_that_is_no_dynakube(self) -> None:
        assert "apiVersion is 'apps/v1'" in only(errors({**kube(), "apiVersion": "apps/v1"}))

    def test_has_errors_that_only_nodes_would_find(self) -> None:
        message = only(errors(kube({"tokens": "../other"})))
        assert "spec.tokens" in message
        assert "Make sure that spec.tokens is valid, or leave it out." in message

    def test_never_refuses_a_change_of_other_fields(self) -> None:
        wrong = kube({"apiUrl": "nowhere", **mode("hostMonitoring", version="1")})
        labelled = {**wrong, "metadata": {**wrong["metadata"], "labels": {"a": "b"}, "finalizers": []}}
        assert errors(labelled, wrong) == ()
        assert len(errors({**wrong, "spec": {**wrong["spec"], "networkZone": "eu"}}, wrong)) == 2
        assert len(errors(kube(wrong["spec"], no_proxy="a"), wrong)) == 2

    def test_never_refuses_the_same_dynakube_in_another_version(self) -> None:
        old = kube({**mode("hostMonitoring", version="1")}, version="v1beta5")
        assert errors({**old, "apiVersion": "dynatrace.com/v1beta6"}, old) == ()

    @pytest.mark.parametrize("version", versions.VERSIONS)
    @hypothesis.given(data=st.data())
    @hypothesis.settings(SWIFTLY, max_examples=25)
    def test_exists_for_all_objects_that_the_api_server_accepts(self, version: str, data: st.DataObject) -> None:
        new, old, other = data.draw(described(version)), data.draw(described(version)), data.draw(described("v1beta6"))
        before = copy.deepcopy((new, old, other))
        other["metadata"]["name"] = "bank"
        cluster = validation.ClusterState(
            own_namespace="dynatrace", dynakubes=(other,), namespaces={"shop": {"a": "b"}}, is_csi_driver_known=True
        )
        result = validation.validate(new, old, cluster)
        assert all("Make sure" in error and error.isprintable() for error in result.errors)
        assert all(warning.isprintable() for warning in result.warnings)
        before[2]["metadata"]["name"] = "bank"
        assert (new, old, other) == before
