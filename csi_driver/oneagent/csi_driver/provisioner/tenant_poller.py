"""The schedule of polls: each DynaKube's tenant and registry, rarely, in a task of its own.

Where an operator asks the tenant for the whole cluster, a poll reads its answers instead (see `operator_feed`).

A poll is repeated at the DynaKube's own interval, sooner after a failure, and at once when the DynaKube names another
tenant, registry or image: a poll with the former settings is cancelled. A tenant that hangs delays no other, and no
tenant has two polls at once. When the operator has seen a change of the objects that an OpenTelemetryInjection names,
all nodes learn of it in the same second: each reads them within half a minute, at once while a pod waits.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from oneagent.common import backoff, logs
from oneagent.common.dynakube import DynaKube
from oneagent.common.dynakube.tenant_config import TenantConfig
from oneagent.common.http import exchange
from oneagent.common.identifiers import DynaKubeName, TenantId
from oneagent.common.kubernetes.errors import ApiError, ForbiddenError
from oneagent.common.oci.hosts import Registries
from oneagent.common.tenant import image_resolver, inputs, poll, tenant_secret
from oneagent.common.tenant.image_resolver import ImageState, SignatureStore
from oneagent.common.tenant.inputs import ObjectReader
from oneagent.common.tenant.poll import TenantState
from oneagent.common.tenant.slots import Slot, Slots
from oneagent.common.tenant.tenant_secret import TenantSecretError
from oneagent.csi_driver.provisioner import package_sources
from oneagent.csi_driver.provisioner.operator_feed import LONGEST_JITTER_SECONDS, Feed, OperatorFeed

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS: Final = 5.0
_CROWD_PAUSE_SECONDS: Final = 60.0
"""The same where all nodes of a cluster ask the tenant, because its operator does not do it for them."""
_BEING_POLLED: Final = "the tenant is being polled"
_BEING_READ: Final = "the operator has the tenant's answers, which this node reads within half a minute"
_NO_OPERATOR: Final = "no operator has marked this DynaKube yet: this node asks the tenant itself within two minutes"
_TENANTS_AT_ONCE: Final = 4
_PATIENCE_SECONDS: Final = 3.0
"""A poll of two or three small answers seldom takes a second."""


@dataclass(slots=True)
class _Task:
    """A poll in progress."""

    slot: Slot
    due: bool
    """The tenant or the registry is to be polled; else only a new image to be resolved."""
    reads_answers: bool
    """The operator's answers are to be read."""
    reads_inputs: bool
    """The objects that an OpenTelemetryInjection names are to be read."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    read: frozenset[str] = frozenset()
    """Digests of the operator's answers in the result."""


@dataclass(slots=True)
class _PollState:
    """The polls of one DynaKube, as it was last."""

    dynakube: DynaKube
    feed: OperatorFeed
    chosen: Feed = Feed.NOT_DECIDED
    tenant: TenantState | None = None
    settings: tuple[object, ...] = ()
    image: str = ""
    """The package's fingerprint at the last poll."""
    inputs: str = ""
    """The last `Telemetry.inputs`."""
    read_at: float = 0.0
    """When the objects are read for it, on the monotonic clock."""
    read_inputs: str = ""
    """The one for which they were read last."""
    task: _Task | None = None
    next_at: float = 0.0
    first_delay_seconds: float = 0.0
    """See `TenantPoller.first_delay_seconds`."""


class TenantPoller:
    """Call it under the caller's lock. `on_state` is called without it after each poll."""

    def __init__(
        self,
        objects: ObjectReader,
        registries: Registries,
        signatures: SignatureStore,
        on_state: Callable[[], None],
        now: Callable[[], float] = time.time,
        *,
        operator_wait_seconds: float | None = None,
        jitter_seconds: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`operator_wait_seconds`: see `DynaKubeSource`; `jitter_seconds`: see `OperatorFeed`."""
        self._operator_wait_seconds, self._jitter_seconds = operator_wait_seconds, jitter_seconds
        self._draw = draw
        self._objects = objects
        self._registries = registries
        self._signatures = signatures
        self._on_state = on_state
        self._now = now
        self._polls: dict[DynaKubeName, _PollState] = {}
        self._slots = Slots(_TENANTS_AT_ONCE, _PATIENCE_SECONDS)
        self._lock = threading.Lock()
        """Held while a poll's end and its cancellation are decided."""

    def state(self, name: DynaKubeName) -> TenantState | None:
        """Return the last answers; None before the first poll has ended."""
        polled = self._polls.get(name)
        if polled is None or polled.chosen is not Feed.OPERATOR or polled.tenant is None:
            return polled.tenant if polled else None
        return _for_questions(polled.tenant, polled.dynakube, polled.dynakube.tenant_config or TenantConfig(""))

    def first_delay_seconds(self, name: DynaKubeName) -> float:
        """Return how long the node has waited with reading the DynaKube's first answers of the operator."""
        polled = self._polls.get(name)
        return polled.first_delay_seconds if polled else 0.0

    def waits_for(self, name: DynaKubeName) -> str:
        """Return why there is no state yet."""
        polled = self._polls.get(name)
        if polled is None or polled.chosen is Feed.TENANT:
            return _BEING_POLLED
        if polled.chosen is Feed.NOT_DECIDED:
            return _NO_OPERATOR
        config = polled.dynakube.tenant_config
        return (config.reason if config else "") or _BEING_READ

    def retain(self, names: Container[DynaKubeName]) -> None:
        """Drop the state of all other DynaKubes."""
        for name in [name for name in self._polls if name not in names]:
            self._cancel(self._polls.pop(name))

    def stop(self) -> None:
        """Cancel all polls. Their threads end soon, or with the process."""
        for polled in self._polls.values():
            self._cancel(polled)

    def poll_if_due(self, dynakube: DynaKube, *, pod_waits: bool = False) -> None:
        """Start a poll in the background if one is due."""
        polled = self._polls.get(dynakube.name)
        if polled is None:
            feed = OperatorFeed(self._operator_wait_seconds, self._jitter_seconds, draw=self._draw)
            polled = self._polls[dynakube.name] = _PollState(dynakube, feed)
        polled.dynakube = dynakube
        self._choose_feed(polled, pod_waits)
        settings = (*inputs.poll_settings(dynakube), dynakube.tenant, dynakube.technologies)
        image = package_sources.find_kind(dynakube).fingerprint(dynakube)
        if settings != polled.settings:
            self._cancel(polled)
            polled.settings, polled.next_at = settings, 0.0
            if polled.chosen is not Feed.OPERATOR:
                # Another tenant or host group counts its revisions from the start. Until it answers, the row stays.
                polled.tenant = None
        if polled.task is not None or polled.chosen is Feed.NOT_DECIDED:
            return
        due, reads_answers = time.monotonic() >= polled.next_at, False
        if (config := dynakube.tenant_config) is not None and polled.chosen is Feed.OPERATOR:
            reads_answers = polled.feed.is_due(config, pod_waits=pod_waits) or (due and polled.feed.has_failed)
        reads_inputs = self._has_new_inputs(polled, pod_waits)
        if not (due or reads_answers or reads_inputs or image != polled.image):
            return
        slot = self._slots.acquire(dynakube.api_url or dynakube.package or dynakube.name)
        if slot is None:
            return  # The loop comes back in a second, and when a poll ends.
        polled.task = task = _Task(slot, due or reads_answers, reads_answers, reads_inputs)
        # A daemon: reading a Secret can't be cancelled, and must not keep the process from ending.
        arguments = (dynakube, polled, task)
        try:
            threading.Thread(target=self._run, args=arguments, name="tenant", daemon=True).start()
        except RuntimeError:  # A limit of threads: the next reconcile tries again.
            self._cancel(polled)
            raise
        polled.image = image
        if task.due or task.reads_inputs:
            polled.read_inputs = polled.inputs

    def _has_new_inputs(self, polled: _PollState, pod_waits: bool) -> bool:
        """Return whether the objects that an OpenTelemetryInjection names have changed, and are to be read now."""
        inputs_now = polled.dynakube.telemetry.inputs if polled.dynakube.telemetry is not None else ""
        if inputs_now and inputs_now != polled.inputs:
            polled.inputs = inputs_now
            polled.read_at = time.monotonic() + self._draw() * min(self._jitter_seconds, LONGEST_JITTER_SECONDS)
        return polled.inputs != polled.read_inputs and (pod_waits or time.monotonic() >= polled.read_at)

    def _choose_feed(self, polled: _PollState, pod_waits: bool) -> None:
        chosen = polled.feed.choose(polled.dynakube, pod_waits=pod_waits)
        if chosen is polled.chosen or (chosen is Feed.NOT_DECIDED and polled.tenant is not None):
            return  # An operator that goes leaves its answers.
        self._cancel(polled)
        polled.chosen, polled.settings, polled.tenant, polled.feed.done = chosen, (), None, frozenset()
        if chosen is Feed.TENANT and self._operator_wait_seconds is not None and polled.dynakube.api_url:
            log.warning(
                "no operator provides the tenant's answers, asking the tenant",
                extra=logs.fields(dynakube=polled.dynakube.name),
            )

    def _cancel(self, polled: _PollState) -> None:
        """Cancel a running poll, whose result is then ignored."""
        with self._lock:
            task, polled.task = polled.task, None
        if task is not None:
            task.cancelled.set()
            self._slots.release(task.slot)

    def _run(self, dynakube: DynaKube, polled: _PollState, task: _Task) -> None:
        before, task.read = polled.tenant, polled.feed.done
        try:
            with exchange.cancel_scope(task.cancelled):
                state = self._next_state(dynakube, before, task, polled.chosen)
        except Exception as error:
            log.exception("poll failed")
            state = poll.after_error(before or TenantState(), error)
        try:
            with self._lock:
                if polled.task is task:
                    if task.due or before is None or state.failures != before.failures:
                        state = self._schedule(dynakube, polled, state)
                    polled.tenant, polled.task, polled.feed.done = state, None, task.read
                    if task.reads_answers:
                        polled.feed.has_failed = bool(state.problem)
                        if before is None:
                            polled.first_delay_seconds = polled.feed.waited_seconds
        finally:
            self._slots.release(task.slot)
            self._on_state()

    def _next_state(self, dynakube: DynaKube, before: TenantState | None, task: _Task, chosen: Feed) -> TenantState:
        if task.due or before is None:
            poll_once = self._read_answers if chosen is Feed.OPERATOR else self._poll
            return poll_once(dynakube, before or TenantState(), task)
        if task.reads_inputs:
            # A new header is no reason to ask the registry, from all nodes at once.
            return self._poll(dynakube, before, task, resolve_image=lambda image: image)
        # A new image alone is no reason to poll the tenant, from all nodes at once.
        image = self._resolve_image(dynakube, before.image)
        return poll.with_image(before, image, before.failures) if image.problem else replace(before, image=image)

    def _read_answers(self, dynakube: DynaKube, before: TenantState, task: _Task) -> TenantState:
        """Read the operator's answers if there are newer ones, then poll the registry; as `poll.poll`."""
        state = replace(before, problem="", is_forbidden=False, polled_at=self._now())
        config = dynakube.tenant_config
        if config is not None and task.reads_answers:
            name = tenant_secret.name(dynakube.name)
            try:
                document = tenant_secret.unpack(self._objects.secret(name))
                state = replace(tenant_secret.decode(document), polled_at=state.polled_at)
                task.read = frozenset({config.digest, tenant_secret.digest(document)})
                log.info("tenant's answers read", extra=logs.fields(dynakube=dynakube.name, secret=name))
            except (ApiError, TenantSecretError) as error:
                log.warning("tenant's answers not read", extra=logs.fields(dynakube=dynakube.name, reason=error))
                problem = f"the Secret {name} with the tenant's answers cannot be read: {error}"
                state = replace(state, problem=problem, is_forbidden=isinstance(error, ForbiddenError))
        return poll.with_image(state, self._resolve_image(dynakube, before.image), before.failures)

    def _poll(
        self,
        dynakube: DynaKube,
        before: TenantState,
        _task: _Task,
        resolve_image: Callable[[ImageState], ImageState] | None = None,
    ) -> TenantState:
        state = poll.poll(
            dynakube,
            self._objects,
            before,
            requests=poll.Requests(
                latest=not (dynakube.decided_version or dynakube.pinned_version or dynakube.package)
            ),
            now=self._now,
            resolve_image=resolve_image or partial(self._resolve_image, dynakube),
        )
        if not dynakube.api_url:
            # Without a tenant, the DynaKube's name separates its config layers from those of others.
            return replace(state, tenant=dynakube.tenant or TenantId(dynakube.name))
        return state

    def _resolve_image(self, dynakube: DynaKube, before: ImageState) -> ImageState:
        image = dynakube.image or dynakube.image_layout
        if image is None or not _resolves_image(dynakube):
            return ImageState()
        return image_resolver.resolve(dynakube, image, self._objects, before, self._registries, self._signatures)

    def _schedule(self, dynakube: DynaKube, polled: _PollState, state: TenantState) -> TenantState:
        """Decide when the next poll is; return the state with it."""
        if polled.chosen is Feed.OPERATOR and not state.failures and not _resolves_image(dynakube):
            polled.next_at = math.inf  # The DynaKube's status shows when there is something new.
            return replace(state, next_poll_at=0.0)
        interval = dynakube.poll_seconds if state.failures else backoff.jittered(dynakube.poll_seconds)
        in_crowd = self._operator_wait_seconds is not None and polled.chosen is Feed.TENANT
        pause = poll.next_poll_seconds(state, interval, _CROWD_PAUSE_SECONDS if in_crowd else _FIRST_PAUSE_SECONDS)
        polled.next_at = time.monotonic() + pause
        return poll.with_next_poll(state, pause, self._now())


def _resolves_image(dynakube: DynaKube) -> bool:
    """Return whether this node asks the registry for an image's digest or its signature."""
    image = dynakube.image or dynakube.image_layout
    return image is not None and (not image.digest or bool(dynakube.image_key))


def _for_questions(state: TenantState, dynakube: DynaKube, config: TenantConfig) -> TenantState | None:
    """Return the operator's answers if they are those to the DynaKube's questions; else why there are none.

    None while the operator is about to ask: until then the row of the former questions stays.
    """
    if tenant_secret.serves(state, dynakube):
        return state
    if config.is_pending or (state.complete and config.digest):
        return None
    reason = config.reason if not config.digest else _BEING_READ
    return replace(state, complete=False, tenant=None, operator_reason=reason)
