"""When a tenant is polled again."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from oneagent.common import dynakube
from oneagent.common.http.client import InvalidSettingsError
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError, UnavailableError
from oneagent.common.tenant import poll
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.inputs import Inputs
from oneagent.common.tenant.poll import TenantState
from tests.fakes.provisioner import manifest
from tests.fakes.tenant import Fault, Tenant

INTERVAL = 900.0
FIRST = 5.0


class Refusing:
    """An `ObjectReader` that fails with an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def secret(self, name: str) -> Mapping[str, str]:
        raise self._error

    def config_map(self, name: str) -> Mapping[str, str]:
        raise self._error


def polled(error: Exception, before: TenantState) -> TenantState:
    kube = dynakube.from_object(manifest(api_url="http://127.0.0.1:1/api"))
    return poll.poll(kube, Refusing(error), before, requests=poll.Requests(), now=lambda: 1.0)


def test_after_an_error_that_nobody_has_expected_the_tenant_counts_as_polled() -> None:
    """Conditions say of one that was never polled that it is not polled yet."""
    state = poll.after_error(TenantState(), TypeError("odd"))
    assert state.polled_at
    assert "TypeError" in state.problem
    assert 0 < poll.next_poll_seconds(state, INTERVAL, FIRST) <= FIRST


def test_a_refusal_to_read_a_secret_is_repeated_within_seconds() -> None:
    state = TenantState()
    for _ in range(50):
        state = polled(ForbiddenError("403"), state)
        assert 0 < poll.next_poll_seconds(state, INTERVAL, FIRST) <= poll.LONGEST_FORBIDDEN_PAUSE
    first = polled(ForbiddenError("403"), TenantState())
    assert poll.next_poll_seconds(first, INTERVAL, FIRST) <= poll.FIRST_FORBIDDEN_PAUSE


def test_so_is_a_refusal_to_read_a_secret_of_the_image() -> None:
    state = TenantState(image=ImageState(problem="403", is_forbidden=True), failures=50)
    assert 0 < poll.next_poll_seconds(state, INTERVAL, FIRST) <= poll.LONGEST_FORBIDDEN_PAUSE


@pytest.mark.parametrize("error", [UnavailableError("503"), ApiError("odd"), InvalidSettingsError("proxy")])
def test_after_another_failure_the_pause_grows_to_the_interval(error: Exception) -> None:
    state = polled(error, polled(ForbiddenError("403"), TenantState(failures=50)))
    assert not state.is_forbidden
    assert poll.next_poll_seconds(state, INTERVAL, FIRST) >= INTERVAL / 2


def test_images_of_a_public_registry_are_requested_where_they_are_used() -> None:
    images = {"oneagent": "public.ecr.aws/dynatrace/oneagent:1"}
    with Tenant() as tenant:
        tenant.images = images
        objects = Inputs({("Secret", "demo"): {"apiToken": tenant.token}})
        for flag, wanted in (("use-public-registry", images), ("public-registry", images), ("no-proxy", {})):
            kube = dynakube.from_object(manifest(api_url=tenant.api_url, annotations={flag: "true"}))
            requests = poll.Requests(latest=False, public_images=True)
            state = poll.poll(kube, objects, TenantState(), requests=requests, now=lambda: 1.0)
            assert (state.images, state.problem) == (wanted, "")


def test_a_tenant_without_public_images_has_answered_the_rest() -> None:
    with Tenant() as tenant:
        kube = dynakube.from_object(manifest(api_url=tenant.api_url, annotations={"use-public-registry": "true"}))
        objects = Inputs({("Secret", "demo"): {"apiToken": tenant.token}})
        before = TenantState(images={"oneagent": "public.ecr.aws/dynatrace/oneagent:1"})
        requests = poll.Requests(latest=False, public_images=True)
        state = poll.poll(kube, objects, before, requests=requests, now=lambda: 1.0)
        assert (state.tenant, state.images) == (tenant.tenant, before.images)
        assert "containerImages: answered 404" in state.problem


def test_a_token_that_may_not_read_images_is_not_rejected() -> None:
    with Tenant() as tenant:
        tenant.plan("images", Fault(status=403))
        kube = dynakube.from_object(manifest(api_url=tenant.api_url, annotations={"use-public-registry": "true"}))
        objects = Inputs({("Secret", "demo"): {"apiToken": tenant.token}})
        requests = poll.Requests(latest=False, public_images=True)
        state = poll.poll(kube, objects, TenantState(), requests=requests, now=lambda: 1.0)
        assert (state.token_rejected, state.complete, state.failures) == (False, True, 1)
        assert "use a token that may read container images" in state.problem
        assert "InstallerDownload" not in state.problem


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=502), Fault(status=503), Fault(body=b"<html>")])
def test_a_lookup_of_scopes_that_fails_leaves_the_rest_of_the_poll(fault: Fault) -> None:
    with Tenant() as tenant:
        kube = dynakube.from_object(manifest(api_url=tenant.api_url))
        objects = Inputs({("Secret", "demo"): {"apiToken": tenant.token}})
        requests = poll.Requests(latest=False, scopes=True)
        tenant.plan("scopes", fault)
        before = TenantState(scopes=frozenset({"old"}), is_forbidden=True)
        state = poll.poll(kube, objects, before, requests=requests, now=lambda: 1.0)
        assert (state.tenant, state.complete, state.problem, state.failures) == (tenant.tenant, True, "", 0)
        assert (state.scopes, state.is_forbidden) == (None, False)
        assert "lookup" in state.scopes_problem
        again = poll.poll(kube, objects, state, requests=requests, now=lambda: 2.0)
        assert (again.scopes, again.scopes_problem) == (frozenset(tenant.scopes), "")


@pytest.mark.parametrize(("status", "rejected"), [(401, True), (429, False)])
def test_a_lookup_of_scopes_that_is_refused_fails_the_poll(status: int, rejected: bool) -> None:
    with Tenant() as tenant:
        kube = dynakube.from_object(manifest(api_url=tenant.api_url))
        objects = Inputs({("Secret", "demo"): {"apiToken": tenant.token}})
        tenant.plan("scopes", Fault(status=status))
        state = poll.poll(kube, objects, TenantState(), requests=poll.Requests(scopes=True), now=lambda: 1.0)
        assert (state.tenant, state.complete, state.token_rejected) == (None, False, rejected)
        assert f"answered {status}" in state.problem
