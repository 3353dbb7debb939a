from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from oneagent.webhook.cache import circuit_breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> circuit_breaker.CircuitBreaker:
    limits = circuit_breaker.Limits(failures=3, window_seconds=300, grace_seconds=30)
    return circuit_breaker.CircuitBreaker(limits, clock)


def fail(circuit: circuit_breaker.CircuitBreaker, clock: Clock, *pods: str, dynakube: str = "prod") -> None:
    for pod in pods:
        circuit.record_failure(dynakube, pod, clock.now)


def test_it_is_closed_while_nothing_is_known(circuit: circuit_breaker.CircuitBreaker) -> None:
    assert circuit.open_reason("prod") == ""


class TestTheDriver:
    def test_ready_nowhere_for_longer_than_the_grace_opens_and_its_return_closes(
        self, circuit: circuit_breaker.CircuitBreaker, clock: Clock
    ) -> None:
        circuit.update_driver(desired=4, ready=0)
        clock.now += 29
        circuit.update_driver(desired=4, ready=0)
        assert circuit.open_reason("prod") == ""
        clock.now += 1
        assert circuit.open_reason("prod") == "the node driver is ready on none of its 4 nodes"
        circuit.update_driver(desired=4, ready=1)
        assert circuit.open_reason("prod") == ""

    def test_a_short_outage_starts_the_grace_anew(self, circuit: circuit_breaker.CircuitBreaker, clock: Clock) -> None:
        for ready in (0, 1, 0):
            circuit.update_driver(desired=1, ready=ready)
            clock.now += 20
        assert circuit.open_reason("prod") == ""

    def test_that_no_node_should_have_it_is_no_trouble(
        self, circuit: circuit_breaker.CircuitBreaker, clock: Clock
    ) -> None:
        circuit.update_driver(desired=0, ready=0)
        clock.now += 1000
        assert circuit.open_reason("prod") == ""

    def test_gone_opens_at_once_and_its_return_closes(self, circuit: circuit_breaker.CircuitBreaker) -> None:
        circuit.remove_driver()
        assert "not installed" in circuit.open_reason("prod")
        circuit.update_driver(desired=1, ready=0)
        assert circuit.open_reason("prod") == ""


class TestFailedPods:
    def test_as_many_as_the_limit_open_it_for_their_dynakube_only(
        self, circuit: circuit_breaker.CircuitBreaker, clock: Clock
    ) -> None:
        fail(circuit, clock, "a", "b")
        assert circuit.open_reason("prod") == ""
        fail(circuit, clock, "c")
        assert circuit.open_reason("prod") == (
            "3 pods or more got no agent within 5 minutes, see their Events with the reason AgentNotMounted"
        )
        assert circuit.open_reason("test") == ""

    def test_a_pod_counts_once(self, circuit: circuit_breaker.CircuitBreaker, clock: Clock) -> None:
        fail(circuit, clock, "a", "b", "a", "b", "a")
        assert circuit.open_reason("prod") == ""

    def test_those_before_the_window_do_not_count(self, circuit: circuit_breaker.CircuitBreaker, clock: Clock) -> None:
        fail(circuit, clock, "a", "b")
        clock.now += 300
        fail(circuit, clock, "c")
        circuit.record_failure("prod", "d", clock.now - 300)
        assert circuit.open_reason("prod") == ""

    def test_it_closes_when_none_has_failed_for_a_window(
        self, circuit: circuit_breaker.CircuitBreaker, clock: Clock
    ) -> None:
        fail(circuit, clock, "a", "b", "c")
        clock.now += 200
        fail(circuit, clock, "d")  # It had begun to start before.
        clock.now += 299
        assert circuit.open_reason("prod")
        clock.now += 1
        assert circuit.open_reason("prod") == ""
        fail(circuit, clock, "e", "f")
        assert circuit.open_reason("prod") == ""
        fail(circuit, clock, "g")
        assert circuit.open_reason("prod")

    def test_a_node_whose_clock_is_ahead_does_not_keep_it_open(
        self, circuit: circuit_breaker.CircuitBreaker, clock: Clock
    ) -> None:
        for pod in ("a", "b", "c"):
            circuit.record_failure("prod", pod, clock.now + 10_000)
        assert circuit.open_reason("prod")
        clock.now += 300
        assert circuit.open_reason("prod") == ""

    def test_one_node_in_trouble_is_not_the_cluster_s(
        self, circuit: circuit_breaker.CircuitBreaker, clock: Clock
    ) -> None:
        circuit.update_driver(desired=5000, ready=5000)
        for pod in "abcdefgh":
            circuit.record_failure("prod", pod, clock.now, "node-1")
        assert circuit.open_reason("prod") == ""
        circuit.record_failure("prod", "z", clock.now, "node-2")
        assert circuit.open_reason("prod")

    def test_the_only_node_is_the_cluster(self, circuit: circuit_breaker.CircuitBreaker, clock: Clock) -> None:
        circuit.update_driver(desired=1, ready=1)
        for pod in "abc":
            circuit.record_failure("prod", pod, clock.now, "node-1")
        assert circuit.open_reason("prod")

    def test_a_limit_of_zero_turns_counting_off(self, clock: Clock) -> None:
        circuit = circuit_breaker.CircuitBreaker(circuit_breaker.Limits(failures=0), clock)
        fail(circuit, clock, *map(str, range(1000)))
        assert circuit.open_reason("prod") == ""
        circuit.remove_driver()
        assert circuit.open_reason("prod")

    def test_a_dynakube_that_is_gone_is_forgotten(self, circuit: circuit_breaker.CircuitBreaker, clock: Clock) -> None:
        fail(circuit, clock, "a", "b", "c")
        fail(circuit, clock, "a", "b", "c", dynakube="test")
        circuit.retain({"test"})
        assert (circuit.open_reason("prod"), bool(circuit.open_reason("test"))) == ("", True)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from("abcdef")), max_size=40))
def test_it_opens_exactly_when_as_many_pods_as_the_limit_failed_within_a_window(
    steps: list[tuple[int, str]],
) -> None:
    """Against a plain model that remembers everything."""
    clock = Clock()
    circuit = circuit_breaker.CircuitBreaker(circuit_breaker.Limits(failures=3, window_seconds=300), clock)
    told: list[tuple[float, str]] = []
    is_open = False
    for wait, pod in steps:
        clock.now += wait
        if is_open and clock.now - told[-1][0] >= 300:
            is_open = False
        circuit.record_failure("prod", pod, clock.now)
        told.append((clock.now, pod))
        is_open = is_open or len({other for at, other in told if clock.now - at < 300}) >= 3
        assert bool(circuit.open_reason("prod")) == is_open
