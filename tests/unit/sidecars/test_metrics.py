"""The sidecars' metrics, as Prometheus meets them."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector, parser

from oneagent.sidecars import metrics
from oneagent.sidecars.grpc.protocol import StatusCode


def test_prometheus_understands_the_metrics() -> None:
    operations = metrics.Operations()
    for seconds in (0.05, 0.1, 3.0, 1000.0):
        operations.observe('a"b\\c', "/csi.v1.Identity/Probe", StatusCode.OK, seconds)
    operations.observe("d", "/csi.v1.Identity/Probe", StatusCode.DEADLINE_EXCEEDED, 3.0)
    families = {family.name: family for family in parser.text_string_to_metric_families(operations.render())}
    family = families["csi_sidecar_operations_seconds"]
    assert family.type == "histogram"
    ours = [sample for sample in family.samples if sample.labels["driver_name"] == 'a"b\\c']
    buckets = {s.labels["le"]: s.value for s in ours if s.name.endswith("_bucket")}
    assert list(buckets) == [*map(str, (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600)), "+Inf"]
    assert [buckets[bound] for bound in ("0.1", "2.5", "5", "600", "+Inf")] == [2, 2, 3, 3, 4]
    assert [s.value for s in ours if not s.name.endswith("_bucket")] == [1003.15, 4]
    assert {s.labels["grpc_status_code"] for s in family.samples} == {"OK", "DeadlineExceeded"}
    assert families["oneagent_build_info"].samples[0].labels["component"] == "livenessprobe"


@pytest.mark.parametrize("component", ["livenessprobe", "registrar"])
def test_the_process_is_described_as_prometheus_libraries_do(component: str) -> None:
    page = metrics.Operations().render() if component == "livenessprobe" else metrics.render_process(component)
    theirs = CollectorRegistry()
    ProcessCollector(registry=theirs)
    ours = {family.name: family for family in parser.text_string_to_metric_families(page)}
    for family in theirs.collect():
        if family.name not in ("process_virtual_memory_bytes", "process_max_fds"):
            assert ours[family.name].type == family.type
            (sample,) = ours[family.name].samples
            assert sample.name == family.samples[0].name
            assert sample.value == pytest.approx(family.samples[0].value, rel=0.1, abs=2)
    assert ours["oneagent_build_info"].samples[0].labels["component"] == component


def test_statuses_are_spelled_as_go_does() -> None:
    operations = metrics.Operations()
    for status in (StatusCode.CANCELLED, StatusCode.UNAVAILABLE, StatusCode.FAILED_PRECONDITION):
        operations.observe("d", "m", status, 0)
    page = operations.render()
    for name in ("Canceled", "Unavailable", "FailedPrecondition"):
        assert f'grpc_status_code="{name}"' in page
