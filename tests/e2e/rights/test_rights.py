"""Least privilege: what roles grant has all been needed in this run, and nothing was wanted that they do not grant."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Final

import pytest
import yaml
from deploy import generate

from tests.cluster import audit, rights
from tests.cluster.audit import Call
from tests.cluster.cluster import Cluster
from tests.e2e.manifests import NAMESPACE

_NEVER_CALLED: Final = {
    ("update", "dynakubes/finalizers"): "asked for by the admission of owner references that block",
    ("use", "securitycontextconstraints"): "asked for by OpenShift's admission when it chooses a pod's SCC",
}
"""Rights that show in no log, because nobody makes a call for which they are needed."""


@pytest.fixture(scope="module")
def grants() -> frozenset[rights.Grant]:
    """Of the manifests for OpenShift, which have one role more than the others."""
    return rights.granted(yaml.load_all((generate.CRD.parent / "openshift.yaml").read_text(), yaml.CSafeLoader))


@pytest.fixture(scope="module")
def calls(cluster: Cluster) -> list[Call]:
    found = list(audit.calls(audit.lines(cluster.control_plane.audit), NAMESPACE))
    if not found:
        pytest.skip("nothing has run that has rights")
    return found


def test_nothing_was_wanted_that_is_not_granted(grants: frozenset[rights.Grant], calls: list[Call]) -> None:
    assert not [str(call) for call in rights.lacking(grants, calls)]


def test_every_right_was_needed(
    whole_ring: None,
    grants: frozenset[rights.Grant],
    calls: list[Call],
    record_property: Callable[[str, object], None],
) -> None:
    without = {(grant.verb, grant.resource) for grant in grants} & set(_NEVER_CALLED)
    left = [grant for grant in rights.unused(grants, calls) if (grant.verb, grant.resource) not in without]
    assert not [str(grant) for grant in left], "needed by no test: take it from the role, or test what it is for"
    assert without == set(_NEVER_CALLED)
    for user in sorted({call.user for call in calls}):
        made = collections.Counter(f"{call.verb} {call.resource}" for call in calls if call.user == user)
        record_property(user, ", ".join(f"{what} ({times})" for what, times in sorted(made.items())))
