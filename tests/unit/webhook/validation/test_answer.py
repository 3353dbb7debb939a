"""The answer as a whole: complete, always the same, and about what was changed only."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.common.dynakube.api import fields
from oneagent.webhook import validation
from tests.unit.common.dynakube.api.manifests import CASES, case
from tests.unit.common.dynakube.api.strategies import SWIFTLY, described
from tests.unit.webhook.validation.dynakubes import MISSING, SEVERAL, UNKNOWN, errors, kube, mode, only


class TestTheAnswer:
    def test_names_everything_that_is_wrong_numbered_and_always_in_the_same_order(self) -> None:
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

    def test_is_empty_for_what_is_right(self) -> None:
        assert validation.validate(kube(), None, UNKNOWN) == validation.Verdict()

    @pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
    def test_is_the_same_for_a_manifest_and_for_its_newest_form(self, path: Any) -> None:
        """But for short versions, which only old versions of the API took."""
        written, newest = case(path)
        assert errors(written) == tuple(said for said in errors(newest) if "is '1.200.0'" not in said)

    def test_says_for_an_older_version_by_which_names_fields_go(self) -> None:
        new = kube({"codeModules": {"namespaceSelector": {"matchLabels": {"a b": ""}}}}, version="v1alpha1")
        verdict = validation.validate(new, None, UNKNOWN)
        assert "spec.oneAgent.applicationMonitoring.namespaceSelector has the key 'a b'" in only(verdict.errors)
        assert "Fields are named as in v1beta6, which this DynaKube of v1alpha1 amounts to." in verdict.warnings

    def test_is_an_error_in_words_for_what_is_no_dynakube(self) -> None:
        assert "apiVersion is 'apps/v1'" in only(errors({**kube(), "apiVersion": "apps/v1"}))

    def test_tells_what_no_rule_speaks_of_but_nodes_would_refuse(self) -> None:
        said = only(errors(kube({"tokens": "../other"})))
        assert "spec.tokens" in said
        assert "Make sure that spec.tokens is right or left out." in said

    def test_is_never_no_to_a_change_of_something_else(self) -> None:
        wrong = kube({"apiUrl": "nowhere", **mode("hostMonitoring", version="1")})
        labelled = {**wrong, "metadata": {**wrong["metadata"], "labels": {"a": "b"}, "finalizers": []}}
        assert errors(labelled, wrong) == ()
        assert len(errors({**wrong, "spec": {**wrong["spec"], "networkZone": "eu"}}, wrong)) == 2
        assert len(errors(kube(wrong["spec"], no_proxy="a"), wrong)) == 2

    def test_is_never_no_to_the_same_in_another_version(self) -> None:
        old = kube({**mode("hostMonitoring", version="1")}, version="v1beta5")
        assert errors({**old, "apiVersion": "dynatrace.com/v1beta6"}, old) == ()

    @pytest.mark.parametrize("version", fields.VERSIONS)
    @hypothesis.given(data=st.data())
    @hypothesis.settings(SWIFTLY, max_examples=25)
    def test_comes_for_whatever_the_api_server_would_take(self, version: str, data: st.DataObject) -> None:
        new, old, other = data.draw(described(version)), data.draw(described(version)), data.draw(described("v1beta6"))
        before = copy.deepcopy((new, old, other))
        other["metadata"]["name"] = "bank"
        known = validation.Known(
            own_namespace="dynatrace", dynakubes=(other,), namespaces={"shop": {"a": "b"}}, csi_known=True
        )
        verdict = validation.validate(new, old, known)
        assert all("Make sure" in error and error.isprintable() for error in verdict.errors)
        assert all(warning.isprintable() for warning in verdict.warnings)
        before[2]["metadata"]["name"] = "bank"
        assert (new, old, other) == before
