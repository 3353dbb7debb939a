"""A new namespace is its DynaKube's from the start."""

from __future__ import annotations

from typing import Any

import pytest

from oneagent.common.dynakube.namespace_mapping import LABEL
from oneagent.webhook import json_patch, namespace_label
from tests.fakes import webhook as fakes

PATH = "/metadata/labels/dynakube.internal.dynatrace.com~1instance"


def kube(name: str, created: str = "2026-01-01T00:00:00Z", **labels: str) -> dict[str, Any]:
    selector = {"matchLabels": labels}
    metadata = {"name": name, "namespace": fakes.NAMESPACE, "creationTimestamp": created}
    spec = {"oneAgent": {"cloudNativeFullStack": {"namespaceSelector": selector}}}
    return {"apiVersion": "dynatrace.com/v1beta6", "kind": "DynaKube", "metadata": metadata, "spec": spec}


def namespace(name: str = "shop", **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


KUBES = [kube("first", "2026-01-01T00:00:00Z", team="a"), kube("second", "2026-02-01T00:00:00Z", team="b")]


class TestTheLabel:
    @pytest.mark.parametrize(
        ("labels", "patch"),
        [
            ({"team": "a"}, [{"op": "add", "path": PATH, "value": "first"}]),
            ({"team": "a", LABEL: "first"}, []),
            ({"team": "b", LABEL: "first"}, [{"op": "add", "path": PATH, "value": "second"}]),
            ({"team": "c", LABEL: "first"}, [{"op": "remove", "path": PATH}]),
            ({"team": "c"}, []),
        ],
    )
    def test_is_set_moved_and_removed(self, labels: dict[str, str], patch: list[Any]) -> None:
        assert namespace_label.patch(namespace(**labels), KUBES, fakes.NAMESPACE) == patch

    @pytest.mark.parametrize("labels", [None, {}])
    def test_comes_with_the_first_labels(self, labels: dict[str, str] | None) -> None:
        metadata = {"name": "shop"} if labels is None else {"name": "shop", "labels": labels}
        patch = namespace_label.patch({"metadata": metadata}, [kube("all")], fakes.NAMESPACE)
        assert patch == [{"op": "add", "path": "/metadata/labels", "value": {LABEL: "all"}}]

    @pytest.mark.parametrize("name", ["kube-system", "dynatrace"])
    def test_is_not_for_what_is_ignored(self, name: str) -> None:
        assert namespace_label.patch(namespace(name), [kube("all")], fakes.NAMESPACE) == []

    def test_does_not_wait_for_a_dynakube_that_can_not_be_read(self) -> None:
        odd = kube("odd")
        odd["spec"]["oneAgent"]["cloudNativeFullStack"]["namespaceSelector"] = {"matchLabels": [1]}
        patch = namespace_label.patch(namespace(), [odd, kube("all")], fakes.NAMESPACE)
        assert [one["value"] for one in patch] == [{LABEL: "all"}]

    @pytest.mark.parametrize("others", [[], [kube("all")]])
    def test_stays_while_its_dynakube_can_not_be_read(self, others: list[Any]) -> None:
        odd = kube("odd")
        odd["spec"]["oneAgent"]["cloudNativeFullStack"]["namespaceSelector"] = {"matchLabels": [1]}
        assert namespace_label.patch(namespace(**{LABEL: "odd", "team": "a"}), [odd, *others], fakes.NAMESPACE) == []

    def test_is_not_for_a_dynakube_on_its_way_out(self) -> None:
        """The operator is taking the label off, and would have to come again."""
        going = kube("going")
        going["metadata"]["deletionTimestamp"] = "2026-03-01T00:00:00Z"
        assert namespace_label.patch(namespace(), [going], fakes.NAMESPACE) == []
        patch = namespace_label.patch(namespace(**{LABEL: "going"}), [going], fakes.NAMESPACE)
        assert patch == [{"op": "remove", "path": PATH}]

    def test_is_for_a_name_that_is_made_later_too(self) -> None:
        assert namespace_label.patch({"metadata": {"generateName": "kube-"}}, [kube("all")], fakes.NAMESPACE) == []


class TestTheServer:
    def test_labels(self) -> None:
        with fakes.Serving() as serving, serving.client() as client:
            serving.cluster.kubes = list(KUBES)
            for operation in ("CREATE", "UPDATE"):
                response = fakes.ask(client, "/label-ns", fakes.review(namespace(team="b"), operation))
                assert fakes.patch(response) == [{"op": "add", "path": PATH, "value": "second"}]
            assert serving.counted("/label-ns", "changed") == 2

    def test_leaves_labels_alone_until_it_knows_all_dynakubes(self) -> None:
        with fakes.Serving() as serving, serving.client() as client:
            serving.cluster.is_synced = False
            response = fakes.ask(client, "/label-ns", fakes.review(namespace(**{LABEL: "first"}), "UPDATE"))
            assert fakes.patch(response) == []
            assert serving.counted("/label-ns", "unchanged", "NotSynced") == 1


class TestAPatch:
    def test_has_no_more_than_it_needs(self) -> None:
        obj = {"metadata": {"annotations": {"a": "1", "b": "2"}}}
        assert json_patch.metadata(obj, "annotations", {"a": "1", "b": None, "c/~": "3"}) == [
            {"op": "remove", "path": "/metadata/annotations/b"},
            {"op": "add", "path": "/metadata/annotations/c~1~0", "value": "3"},
        ]
        assert json_patch.metadata({}, "annotations", {"a": None}) == []
