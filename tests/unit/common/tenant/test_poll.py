"""When a tenant is polled again."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from oneagent.common import dynakube
from oneagent.common.http.client import InvalidSettingsError
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError, UnavailableError
from oneagent.common.tenant import poll
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.poll import TenantState
from tests.fakes.provisioner import manifest

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
