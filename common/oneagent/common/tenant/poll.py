"""One poll of a DynaKube's tenant and of its image's registry, the same on nodes and in the operator.

A tenant allows 50 requests a minute for the whole cluster. So the operator polls, rarely, and nodes get its answers
(see `tenant_secret`); a node polls only where no operator does. A failed poll leaves the last answers in place: a
tenant that is down changes nothing in the cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from oneagent.common import backoff, logs
from oneagent.common.agents.oneagent import ruxitagentproc
from oneagent.common.dynakube import DynaKube
from oneagent.common.http import client as http_client
from oneagent.common.http import errors
from oneagent.common.identifiers import TenantId, Version
from oneagent.common.kubernetes import types
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError
from oneagent.common.tenant import client, inputs
from oneagent.common.tenant.image_resolver import ImageState
from oneagent.common.tenant.inputs import ObjectReader

if TYPE_CHECKING:
    from oneagent.common.agents.opentelemetry.telemetry import Telemetry

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
    """The tenant has no endpoint for `network_zone`."""
    network_zone: str = ""
    latest: Version | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    """Newest images in a public registry, by component."""
    revision: int = 0
    properties: tuple[ruxitagentproc.Property, ...] = field(default=(), repr=False)
    exporter_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of the exporter's requests, of an OpenTelemetryInjection."""
    exporter_ca: str = field(default="", repr=False)
    """Certificates that the exporter trusts, in PEM form; empty for the system's."""
    exporter_inputs: str = ""
    """Digest of the versions of the objects that have these; in the operator only."""
    complete: bool = False
    """One poll has brought everything that agents need: answers that a later poll lacks are the former ones."""
    questions: tuple[str, str, str] = ("", "", "")
    """`DynaKube.tenant_questions` of the poll that was complete."""
    operator_reason: str = ""
    """The operator's reason why it has no answers for nodes; on nodes only."""
    scopes: frozenset[str] | None = None
    """None: not requested, not supported by the tenant, or not known because of `scopes_problem`."""
    scopes_problem: str = ""
    token_invalid: bool = False
    """The Secret or a token in it cannot be used."""
    uses_paas_token: bool = False
    """The token for downloads is `paasToken`, which the tenant's makers have deprecated."""
    token_rejected: bool = False
    """The tenant has rejected the token."""
    is_unreachable: bool = False
    """The last poll had no response: name, connection, TLS, proxy or timeout."""
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
        return self.explain(self.image.problem or self.problem) or self.operator_reason

    @property
    def obstacle(self) -> str:
        """Return why the last poll has not brought everything that agents need."""
        if self.no_endpoint:
            return no_endpoint(self.network_zone)
        return self.explain(self.problem) or self.operator_reason or "the tenant has not been polled yet"

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
    state = replace(state, token_invalid=False, token_rejected=False, is_unreachable=False)
    if dynakube.telemetry is not None:
        return _read_exporter(state, dynakube.telemetry, objects)
    if not dynakube.api_url:
        return replace(state, tenant=dynakube.tenant, complete=True, questions=dynakube.tenant_questions)
    try:
        access = inputs.tenant_access(dynakube, objects)
        state = replace(state, uses_paas_token=bool(access.paas_token))
        wait(dynakube.api_url)
        with client.Tenant(access) as tenant:
            if requests.scopes:
                state = _with_scopes(state, tenant, dynakube)
            state = _with_connection(state, tenant.connection(), dynakube)
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
            is_unreachable=isinstance(error, errors.UnreachableError),
            is_forbidden=isinstance(error, ForbiddenError),
            retry_after=getattr(error, "retry_after", None),
        )
    except Exception as error:
        # URLs, certificates and proxies of users reach the libraries below: a fault is one of this tenant alone.
        log.exception("tenant poll failed", extra=logs.fields(dynakube=dynakube.name))
        return replace(state, problem=f"{type(error).__name__}: {error}")
    if state.no_endpoint:
        # The former answers, if any, stay in use.
        return state
    return replace(state, complete=True, questions=dynakube.tenant_questions)


def _read_exporter(state: TenantState, telemetry: Telemetry, objects: ObjectReader) -> TenantState:
    """Return the state with the exporter's headers and CA; all former ones stay while one of them cannot be used."""
    secret, authority = telemetry.headers_secret, telemetry.authority
    try:
        headers = inputs.exporter_headers(secret, objects) if secret else {}
        certificates = inputs.exporter_ca(authority, objects) if authority is not None else ""
    except (ApiError, http_client.InvalidSettingsError) as error:
        log.warning("exporter's headers or CA not read", extra=logs.fields(reason=error))
        return replace(state, problem=str(error), is_forbidden=isinstance(error, ForbiddenError))
    return replace(state, exporter_headers=headers, exporter_ca=certificates, complete=True)


def _with_scopes(state: TenantState, tenant: client.Tenant, dynakube: DynaKube) -> TenantState:
    """Return the state with the token's scopes. They are for the condition: without them the poll goes on."""
    try:
        return replace(state, scopes=tenant.scopes(), scopes_problem="")
    except errors.HttpError as error:
        is_of_lookup = getattr(error, "status", 0) >= 500 or isinstance(error, errors.UnexpectedResponseError)
        if not is_of_lookup:
            raise
        log.warning("scopes of the token not known", extra=logs.fields(dynakube=dynakube.name, reason=error))
        return replace(state, scopes=None, scopes_problem=str(error))


def no_endpoint(network_zone: str) -> str:
    """Return the problem and its remedy."""
    remedy = "correct the zone, or give it an ActiveGate"
    return f"the tenant has no endpoint for spec.networkZone {network_zone!r}: {remedy}"


def _with_connection(state: TenantState, connection: client.Connection | None, dynakube: DynaKube) -> TenantState:
    if connection is None:
        return replace(state, no_endpoint=True, network_zone=dynakube.network_zone)
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
