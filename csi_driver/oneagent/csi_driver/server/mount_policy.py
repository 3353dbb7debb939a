"""The mount policy of a DynaKube: how long a volume retries, and what its pod gets meanwhile.

    wait-then-last-good   the pod waits for one publish wait, then gets the DynaKube's previous version if that is still
                          in the store; without one as with `wait`
    wait                  the pod waits, and starts with an empty view once the retry limit is reached
    last-good             the pod gets the DynaKube's previous version at once; without one as with `wait`
    fail                  the pod waits without limit and never gets an empty view

A pod's failure policy `fail` takes the limits away, whatever the mount policy.

The limit, exactly: with N attempts, N calls fail and the next one succeeds with an empty view. With a timeout T,
the first call that comes T or later after the first failure succeeds with an empty view. A call that is waiting
when T passes does so then. The earlier of the two applies. A successful mount resets both. A call that finds no place
to wait is no attempt, but T begins with it.

The last good version was desired and in the store at the same time, so it is complete and has its configuration.
Garbage collection keeps it for a DynaKube of these policies. A corrupt one has left the store, so pods wait for it as
for any other.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from oneagent.csi_driver.metadata.desired_versions import (
    FAIL,
    LAST_GOOD,
    MOUNT_ATTEMPTS,
    MOUNT_TIMEOUT_SECONDS,
    DesiredState,
)
from oneagent.csi_driver.server.request_validation import PublishRequest
from oneagent.csi_driver.store import AgentStore


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed mounts of one volume: their number and the first one's time (see `linux.clock`; 0 for none)."""

    attempts: int = 0
    first_at: float = 0.0

    def increment(self, now: float) -> Failures:
        return Failures(self.attempts + 1, self.first_at or now)

    def start_timeout(self, now: float) -> Failures:
        """Count no attempt, but let the mount timeout begin."""
        return Failures(self.attempts, self.first_at or now)

    def have_lasted(self, seconds: float, now: float) -> bool:
        """Return whether the first of them is so long ago."""
        return bool(self.first_at) and now >= self.first_at + seconds


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """Attempts and time until a volume gets an empty view; infinite for never."""

    attempts: float
    timeout_seconds: float

    def describe_attempt(self, attempts: int) -> str:
        """Return the number of an attempt, for messages."""
        return f"attempt {attempts} of {self.attempts:g}" if math.isfinite(self.attempts) else f"attempt {attempts}"

    def exhausted_reason(self, failures: Failures, now: float) -> str:
        """Return why the retry limit is reached; '' while it is not."""
        if failures.attempts >= self.attempts:
            return f"{failures.attempts} mount attempts failed (the limit is {self.attempts})"
        if failures.first_at and now >= failures.first_at + self.timeout_seconds:
            return f"mount attempts failed for {self.timeout_seconds:g} s (the mount timeout)"
        return ""

    def seconds_left(self, failures: Failures, now: float) -> float:
        """Return the time until the volume gets an empty view."""
        if not failures.first_at:
            return math.inf
        return failures.first_at + self.timeout_seconds - now


def retry_limits(request: PublishRequest, desired: DesiredState | None) -> RetryLimits:
    """Return the limits of a volume: those of its DynaKube, unless the pod has a timeout or a failure policy."""
    if desired is None:
        desired = DesiredState(
            request.dynakube, mount_attempts=MOUNT_ATTEMPTS, mount_timeout_seconds=MOUNT_TIMEOUT_SECONDS
        )
    if request.never_empty or desired.mount_policy == FAIL:
        return RetryLimits(math.inf, math.inf)
    timeout = request.retry_timeout_seconds
    return RetryLimits(desired.mount_attempts, desired.mount_timeout_seconds if timeout is None else timeout)


def is_impatient(request: PublishRequest, desired: DesiredState | None) -> bool:
    """Return whether the pod's own timeout is shorter than that of its DynaKube."""
    timeout = request.retry_timeout_seconds
    return timeout is not None and desired is not None and timeout < desired.mount_timeout_seconds


def fallback_version(desired: DesiredState | None, store: AgentStore, *, waited: bool) -> DesiredState | None:
    """Return the DynaKube's state with its last good version; None if the policy or the store has none.

    `waited`: the volume has waited for its version for one publish wait.
    """
    if desired is None or not desired.may_fall_back or desired.good_version == desired.version:
        return None
    if not desired.good_layer:
        return None
    if desired.mount_policy != LAST_GOOD and not waited:
        return None
    if not store.has(desired.good_version):
        return None
    return dataclasses.replace(desired, version=desired.good_version, layer=desired.good_layer)
