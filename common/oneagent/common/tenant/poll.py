"""One poll of a DynaKube's tenant and of its image's registry, the same on nodes and in the operator.

A tenant allows 50 requests a minute for the whole cluster, so polls are rare. A failed poll leaves the last answers in
place: a tenant that is down changes nothing in the cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from oneagent.common import backoff, logs
from oneagent.common.agent_config import ruxitagentproc
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.identifiers import TenantId, Version
from oneagent.common.kubernetes import types
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError
from oneagent.common.tenant import client, inputs
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.inputs import ObjectReader

log = logging.getLogger(__name__)

REQUIRED_SCOPE: Final = "InstallerDownload"

_TOLD_PAUSE_SECONDS: Final = 60.0
"""Shortest pause whose end is in the condition: each such time is a write of the status."""

FIRST_FORBIDDEN_PAUSE: Final = 1.0
LONGEST_FORBIDDEN_PAUSE: Final = 15.0
"""The operator grants the Secrets of a DynaKube just after the nodes have seen it: they try again soon."""


@dataclass(frozen=True, slots=True)
class TenantState:
    """The last answers. Never holds an API token."""

    polled_at: float = 0.0
    """Seconds since the epoch; 0 before the first poll."""
    tenant: TenantId | None = None
    tenant_token: str = field(default="", repr=False)
    endpoints: tuple[str, ...] = ()
    no_endpoint: bool = False
    """The tenant has no endpoint for the network zone."""
    latest: Version | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    """Newest images in a public registry, by component."""
    revision: int = 0
    properties: tuple[ruxitagentproc.Property, ...] = field(default=(), repr=False)
    complete: bool = False
    """One poll has succeeded: answers that a later poll lacks are the former ones."""
    scopes: frozenset[str] | None = None
    """None: not requested, or not supported by the tenant."""
    token_invalid: bool = False
    """The Secret or a token in it cannot be used."""
    uses_paas_token: bool = False
    """The token for downloads is `paasToken`, which the tenant's makers have deprecated."""
    token_rejected: bool = False
    """The tenant has rejected the token."""
    image: ImageState = field(default_factory=ImageState)
    problem: str = ""
    """The reason why the last poll of the tenant failed."""
    is_forbidden: bool = False
    """This process may not read one of the objects that the poll needs, perhaps not yet."""
    failures: int = 0
    """Failed polls in a row, of the tenant or of the registry."""
    retry_after: float | None = None
    next_poll_at: float = 0.0
    """Seconds since the epoch at which a failed poll is repeated; 0 if that is soon."""

    @property
    def any_problem(self) -> str:
        """Return the problem of the last poll and the time of the next one, for a condition."""
        return self.explain(self.image.problem or self.problem)

    def explain(self, problem: str) -> str:
        """Add the time of the next poll to a problem, if it is not soon."""
        if not problem or not self.next_poll_at:
            return problem
        return f"{problem}; next try at {types.timestamp(self.next_poll_at)}"


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests that one side needs and the other does not."""

    latest: bool = True
    scopes: bool = False
    public_images: bool = False
    """Where the DynaKube uses a public registry."""


def poll(
    dynakube: DynaKube,
    objects: ObjectReader,
    before: TenantState,
    *,
    requests: Requests,
    now: Callable[[], float],
    wait: Callable[[str], None] = lambda _api_url: None,
    resolve_image: Callable[[ImageState], ImageState] = lambda _state: ImageState(),
) -> TenantState:
    """Poll the tenant, then the registry. For a thread; never raises for what either of them may do.

    `wait` returns when the tenant's rate limit allows one more poll.
    """
    state = _poll_tenant(dynakube, objects, before, requests, now, wait)
    return with_image(state, resolve_image(before.image), before.failures)


def with_image(state: TenantState, image: ImageState, failures: int) -> TenantState:
    """Return the state with an image's answers; `failures` is the number before this poll."""
    failed = state.problem or image.problem
    return replace(state, image=image, failures=failures + 1 if failed else 0)


def after_error(before: TenantState, error: Exception) -> TenantState:
    """Return the state after an error that nobody has expected: it is shown and retried as any other."""
    problem = f"internal error ({type(error).__name__}): see the log"
    # As after any other poll: conditions tell nothing of a tenant that was never polled.
    return replace(before, problem=problem, failures=before.failures + 1, polled_at=before.polled_at or time.time())


def next_poll_seconds(state: TenantState, interval: float, first_pause: float, shortest: float = 0.0) -> float:
    """Return the pause after a poll: the DynaKube's interval, or a back-off after a failure."""
    interval = max(interval, shortest)
    if not state.failures:
        return interval
    if state.is_forbidden or state.image.is_forbidden:
        first_pause, interval = FIRST_FORBIDDEN_PAUSE, min(interval, LONGEST_FORBIDDEN_PAUSE)
    pause = backoff.exponential(state.failures, first_pause, interval)
    retry_after = max(state.retry_after or 0.0, state.image.retry_after or 0.0)
    return max(backoff.at_least(pause, retry_after), shortest)


def with_next_poll(state: TenantState, pause: float, now: float) -> TenantState:
    """Return the state with the time of the next poll, after a failure that is not repeated soon."""
    is_told = state.failures and pause >= _TOLD_PAUSE_SECONDS
    return replace(state, next_poll_at=now + pause if is_told else 0.0)


def _poll_tenant(
    dynakube: DynaKube,
    objects: ObjectReader,
    before: TenantState,
    requests: Requests,
    now: Callable[[], float],
    wait: Callable[[str], None],
) -> TenantState:
    state = replace(before, problem="", is_forbidden=False, retry_after=None, polled_at=now())
    state = replace(state, token_invalid=False, token_rejected=False)
    if not dynakube.api_url:
        return replace(state, tenant=dynakube.tenant, complete=True)
    try:
        access = inputs.tenant_access(dynakube, objects)
        state = replace(state, uses_paas_token=bool(access.paas_token))
        wait(dynakube.api_url)
        with client.Tenant(access) as tenant:
            if requests.scopes:
                state = replace(state, scopes=tenant.scopes())
            state = _with_connection(state, tenant.connection())
            if requests.latest:
                state = replace(state, latest=tenant.latest_version())
            if config := tenant.module_config(state.revision, host_group=dynakube.host_group):
                state = replace(state, revision=config.revision, properties=config.properties)
                _warn_of_invalid_names(dynakube, config)
            # Last: a tenant that does not know this request has answered the others.
            if requests.public_images and dynakube.uses_public_registry:
                state = _with_images(state, tenant, dynakube)
    except (errors.HttpError, http_client.InvalidSettingsError, ApiError) as error:
        log.warning("tenant poll failed", extra=logs.fields(dynakube=dynakube.name, reason=error))
        return replace(
            state,
            problem=str(error),
            token_invalid=isinstance(error, client.InvalidTokenError),
            token_rejected=isinstance(error, errors.HttpStatusError) and error.status in (401, 403),
            is_forbidden=isinstance(error, ForbiddenError),
            retry_after=getattr(error, "retry_after", None),
        )
    except Exception as error:
        # URLs, certificates and proxies of users reach the libraries below: a fault is one of this tenant alone.
        log.exception("tenant poll failed", extra=logs.fields(dynakube=dynakube.name))
        return replace(state, problem=f"{type(error).__name__}: {error}")
    return replace(state, complete=True)


def _with_connection(state: TenantState, connection: client.Connection | None) -> TenantState:
    if connection is None:
        return replace(state, no_endpoint=True)
    return replace(
        state,
        no_endpoint=False,
        tenant=connection.tenant,
        tenant_token=connection.tenant_token,
        endpoints=connection.endpoints,
    )


def _with_images(state: TenantState, tenant: client.Tenant, dynakube: DynaKube) -> TenantState:
    """Return the state with the images in a public registry, or with the reason why the tenant names none."""
    try:
        return replace(state, images=tenant.public_images(dynakube.public_registry))
    except errors.HttpStatusError as error:
        # The token is not rejected: the tenant has answered other requests with it.
        log.warning("images not named by the tenant", extra=logs.fields(dynakube=dynakube.name, reason=error))
        return replace(state, problem=str(error), retry_after=error.retry_after)


def _warn_of_invalid_names(dynakube: DynaKube, config: client.ModuleConfig) -> None:
    """Log, once for each revision, the properties that `ruxitagentproc.merge` leaves out."""
    invalid = [f"[{prop.section}] {prop.key}" for prop in config.properties if ruxitagentproc.sanitize(prop) is None]
    if invalid:
        log.warning(
            "tenant's configuration has invalid names",
            extra=logs.fields(dynakube=dynakube.name, properties=", ".join(invalid)),
        )
