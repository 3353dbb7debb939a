"""Whatever is broken, interrupted or slow: what the webhook serves verifies against every bundle that is heeded."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from oneagent.common.kubernetes.errors import ApiError, ForbiddenError, UnavailableError
from oneagent.operator.certificates import cluster_state as holding
from oneagent.operator.certificates.controller import CertificateController, Metrics
from oneagent.operator.certificates.settings import CertificateSettings
from tests.fakes import certificates as fakes
from tests.fakes.certificates import AUTHORITY, CERTS, DEFINITION, MUTATING, VALIDATING, Cluster, Key, Replica

SETTINGS = CertificateSettings(
    namespace=fakes.NAMESPACE,
    server_seconds=6000,
    authority_seconds=18000,
    threshold_seconds=1500,
    settle_seconds=10,
    grace_seconds=120,
    check_seconds=300,
)
LAG_SECONDS = 9.0
"""So late API servers heed a bundle at most: less than what is waited for."""
RELOAD_SECONDS = (0.5, 90.0)
"""So late each replica serves what is in the Secret at most."""
OUTAGE_SECONDS = 600.0
"""So long a configuration is out of reach at most."""
HOST = SETTINGS.hosts[1]
TARGETS = (MUTATING, VALIDATING, DEFINITION)
LOSABLE = (VALIDATING, DEFINITION)
"""If Secrets and all configurations go at once, nobody is left who knows what is served: one of them stays."""


class World(RuleBasedStateMachine):
    """Time passes only in `_pass`, which lets controller and replicas do what their time has come for."""

    snapshots: Bundle[Any] = Bundle("snapshots")

    @initialize()
    def install(self) -> None:
        self.cluster = Cluster(1_750_000_000.0)
        self.replicas = [Replica(), Replica()]
        self.seen = ["", ""]
        self.stale = [0.0, 0.0]
        self.kill: tuple[int, bool] | None = None
        self.conflicts = 0
        self.reachable = 0.0
        self.losses: list[str] = []
        self.up = False
        self.cluster.put(MUTATING, fakes.configuration(MUTATING[0], "pods", "namespaces"))
        self.cluster.put(VALIDATING, fakes.configuration(VALIDATING[0]))
        self.cluster.put(DEFINITION, fakes.definition())
        self.cluster.before_write = self._before_write
        self.cluster.after_write = self._after_write
        self._start_keeper()
        self._pass(0)
        assert not self.controller.is_settled, "no replica serves yet, so nothing may be converted"
        self._pass(400)
        assert all(self.cluster.bundles(target) for target in TARGETS)
        assert all(replica.pair for replica in self.replicas)
        assert self.controller.is_settled
        self.up = True

    # What happens to the operator.

    @rule(seconds=st.integers(1, 4000))
    def time_passes(self, seconds: int) -> None:
        self._pass(seconds)

    @rule(seconds=st.integers(1, 30))
    def some_time_passes(self, seconds: int) -> None:
        self._pass(seconds)

    @rule()
    def something_is_noticed(self) -> None:
        self.due = self.cluster.now
        self._pass(0)

    @rule(writes=st.integers(0, 8), done=st.booleans(), away=st.integers(1, 60))
    def it_is_killed(self, writes: int, done: bool, away: int) -> None:
        """At one of its next writes, which is then done or not; it is back a while later."""
        self.kill, self.away = (writes, done), away

    @rule(number=st.integers(1, 3))
    def somebody_writes_in_between(self, number: int) -> None:
        self.conflicts = number

    @rule(key=st.sampled_from(LOSABLE), error=st.sampled_from([UnavailableError, ForbiddenError]))
    def a_target_is_out_of_reach(self, key: Key, error: type[ApiError]) -> None:
        self.cluster.failing[key] = error
        self.reachable = self.cluster.now + OUTAGE_SECONDS

    @rule()
    def everything_is_in_reach_again(self) -> None:
        self.cluster.failing.clear()
        self._pass(SETTINGS.longest_retry_seconds)

    # What happens to the Secrets.

    @rule(key=st.sampled_from([AUTHORITY, CERTS]))
    def a_secret_is_deleted(self, key: Key) -> None:
        self.cluster.remove(key)

    @precondition(lambda self: CERTS in self.cluster.objects and AUTHORITY in self.cluster.objects)
    @rule(
        what=st.sampled_from(
            [(AUTHORITY, "ca.crt"), (AUTHORITY, "ca.key"), (CERTS, "tls.crt"), (CERTS, "tls.key"), (CERTS, "ca.crt")]
        ),
        to=st.sampled_from(["", "Z2FyYmFnZQ==", "no base64", None, "other"]),
    )
    def a_secret_is_broken(self, what: tuple[Key, str], to: str | None) -> None:
        key, part = what
        secret = self.cluster.objects[key]
        other = self.cluster.objects[AUTHORITY]["data"].get("ca.key")
        data = {**secret["data"], part: other if to == "other" else to}
        self.cluster.put(key, {**secret, "data": {name: value for name, value in data.items() if value is not None}})

    @precondition(lambda self: AUTHORITY in self.cluster.objects)
    @rule(target=snapshots)
    def a_backup_is_made(self) -> Any:
        return self.cluster.objects[AUTHORITY]

    @rule(backup=snapshots)
    def a_backup_is_restored(self, backup: Any) -> None:
        self.cluster.put(AUTHORITY, backup)

    @precondition(lambda self: CERTS in self.cluster.objects)
    @rule(key=st.sampled_from([AUTHORITY, CERTS]))
    def a_secret_becomes_immutable(self, key: Key) -> None:
        if key in self.cluster.objects:
            self.cluster.put(key, {**self.cluster.objects[key], "immutable": True})

    # What happens to the webhook and its configurations.

    @rule(number=st.integers(0, 1))
    def a_replica_reloads(self, number: int) -> None:
        self._reload(number)

    @rule(number=st.integers(0, 1))
    def a_replica_is_started_anew(self, number: int) -> None:
        self.replicas[number].pair = None
        self._reload(number)

    @rule(key=st.sampled_from(LOSABLE))
    def a_configuration_is_installed_again(self, key: Key) -> None:
        self.cluster.remove(key)
        new = fakes.definition() if key == DEFINITION else fakes.configuration(key[0])
        self.cluster.put(key, new)

    @rule(key=st.sampled_from(LOSABLE))
    def a_configuration_is_removed(self, key: Key) -> None:
        self.cluster.remove(key)

    @invariant()
    def no_request_is_lost(self) -> None:
        if hasattr(self, "losses"):
            assert not self.losses

    def teardown(self) -> None:
        """Left alone, everything converges: one CA, which is trusted everywhere, and served everywhere."""
        if not getattr(self, "up", False):
            return
        self.cluster.failing.clear()
        self.kill, self.conflicts = None, 0
        self.due = min(self.due, self.cluster.now + SETTINGS.check_seconds)
        self._pass(1500)
        assert not self.losses
        if self._renewal_is_near():
            self._pass(1500)
        record = holding.record(self.cluster.objects[AUTHORITY])
        assert not record.former
        assert record.authority
        for key in set(TARGETS) & set(self.cluster.objects):
            assert self.cluster.bundles(key) == {record.authority.certificate.pem}
        for replica in self.replicas:
            assert replica.pair
            assert replica.pair.certificate.signed_by(record.authority.certificate)

    def _renewal_is_near(self) -> bool:
        return bool(holding.record(self.cluster.objects[AUTHORITY]).former)

    def _start_keeper(self) -> None:
        metrics = Metrics(CollectorRegistry())
        probe = fakes.serving(self.replicas)
        self.controller = CertificateController(
            self.cluster, SETTINGS, probe, metrics=metrics, clock=self.cluster.clock
        )
        self.due = self.cluster.now

    def _pass(self, seconds: float) -> None:
        end = self.cluster.now + seconds
        while True:
            self._watch()
            stale = [at for number, at in enumerate(self.stale) if self._is_behind(number)]
            if self.cluster.failing:
                stale.append(self.reachable)
            self.cluster.now = max(self.cluster.now, min([end, self.due, *stale]))
            if self.cluster.now >= self.reachable:
                self.cluster.failing.clear()
            for number in range(len(self.replicas)):
                if self._is_behind(number) and self.stale[number] <= self.cluster.now:
                    self._reload(number)
            if self.due <= self.cluster.now:
                self._round()
            elif self.cluster.now >= end:
                return

    def _round(self) -> None:
        try:
            self.due = self.cluster.now + max(fakes.run(self.controller.reconcile()), 0.01)
        except fakes.KilledError:
            self._start_keeper()
            self.due += self.away

    def _before_write(self, key: Key) -> None:
        if self.conflicts:
            self.conflicts -= 1
            self.cluster.touch(key)
        if self.kill == (0, False):
            self.kill = None
            raise fakes.KilledError

    def _after_write(self, key: Key) -> None:
        self._watch()
        if self.kill:
            left, done = self.kill
            self.kill = (left - 1, done) if left else None
            if not left:
                raise fakes.KilledError

    def _watch(self) -> None:
        """Replicas notice that their Secret has changed; and every request at this instant is tried."""
        version = self.cluster.objects.get(CERTS, {}).get("metadata", {}).get("resourceVersion", "")
        for number, seen in enumerate(self.seen):
            if seen != version:
                self.seen[number] = version
                self.stale[number] = self.cluster.now + RELOAD_SECONDS[number]
        if not self.up:
            return
        for target in TARGETS:
            for bundle in self.cluster.bundles(target, LAG_SECONDS):
                for replica in self.replicas:
                    # One that was just installed has no bundle yet.
                    if bundle and replica.pair:
                        certificate = replica.pair.certificate
                        if not fakes.verifies(certificate, bundle, HOST, self.cluster.now):
                            self.losses.append(f"{target[0]} at {self.cluster.now:.0f}")

    def _is_behind(self, number: int) -> bool:
        return self.stale[number] > 0

    def _reload(self, number: int) -> None:
        self.replicas[number].reload(self.cluster)
        self.stale[number] = 0.0


World.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=15, deadline=None)


class TestWorld(World.TestCase):  # type: ignore[misc, valid-type]
    """The states of a cluster's certificates."""


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("write", range(12))
def test_a_rotation_goes_on_wherever_it_was_interrupted(write: int, done: bool) -> None:
    world = World()
    world.install()
    world.it_is_killed(write, done, 20)
    world.time_passes(13_000)
    assert not world.losses
    assert not world.kill, "the rotation has fewer writes"
    world.teardown()


def test_an_old_backup_of_the_authority_is_taken_back_without_a_request_being_lost() -> None:
    world = World()
    world.install()
    backup = world.cluster.objects[AUTHORITY]
    world.time_passes(13_500)
    assert world.cluster.objects[AUTHORITY]["data"] != backup["data"]
    world.a_backup_is_restored(backup)
    world.something_is_noticed()
    world.teardown()


def test_the_time_to_heed_a_bundle_begins_anew_when_somebody_takes_it_away() -> None:
    world = World()
    world.install()
    (former,) = world.cluster.bundles(VALIDATING)
    world.time_passes(11_500)
    while world.cluster.bundles(VALIDATING) == {former}:
        world.some_time_passes(1)
    world.some_time_passes(8)
    configuration = world.cluster.objects[VALIDATING]
    configuration["webhooks"][0]["clientConfig"]["caBundle"] = b64encode(former).decode()
    world.cluster.put(VALIDATING, configuration)
    world.some_time_passes(3)
    world.teardown()


def test_what_is_trusted_is_looked_up_before_a_lost_authority_is_made_anew() -> None:
    world = World()
    world.install()
    for key in TARGETS:
        world.a_target_is_out_of_reach(key, UnavailableError)
    world.a_secret_is_deleted(AUTHORITY)
    world.a_secret_is_deleted(CERTS)
    world.something_is_noticed()
    world.some_time_passes(30)
    world.everything_is_in_reach_again()
    world.teardown()


def test_the_former_authority_stays_trusted_for_the_grace_time_after_the_last_endpoint_and_no_longer() -> None:
    world = World()
    world.install()
    world.time_passes(11_500)
    while not (served := holding.record(world.cluster.objects[AUTHORITY]).served):
        world.some_time_passes(1)
    while holding.record(world.cluster.objects[AUTHORITY]).former:
        # Nothing else wakes the controller: it has to know by itself when the time is over.
        world.some_time_passes(1)
    stayed = world.cluster.now - served.since
    assert SETTINGS.grace_seconds <= stayed <= SETTINGS.grace_seconds + 2
    world.teardown()
