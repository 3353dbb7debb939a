"""What kubelet measured of its calls to the driver: `csi_operations_seconds`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from oneagent.common.identifiers import DRIVER_NAME
from tests.cluster.kubectl import Kubectl
from tests.cluster.sandbox_init import NODE


@dataclass(frozen=True)
class Operations:
    """Calls of one method: how many, how many of them failed, their seconds in all, and the histogram's buckets."""

    number: int
    failed: int
    seconds: float
    buckets: tuple[tuple[float, int], ...]
    """Upper bounds in seconds, and how many calls took at most so long."""

    @classmethod
    def read(cls, kubectl: Kubectl, method: str) -> Self:
        text = kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/metrics")
        number = failed = 0
        seconds = 0.0
        buckets: dict[float, int] = {}
        for family in text_string_to_metric_families(text):
            if family.name != "csi_operations_seconds":
                continue
            for sample in family.samples:
                labels = sample.labels
                if labels["driver_name"] != DRIVER_NAME or not labels["method_name"].endswith(f"/{method}"):
                    continue
                if sample.name.endswith("_count"):
                    number += int(sample.value)
                    failed += int(sample.value) if labels["grpc_status_code"] != "OK" else 0
                elif sample.name.endswith("_sum"):
                    seconds += sample.value
                elif sample.name.endswith("_bucket"):
                    bound = float(labels["le"])
                    buckets[bound] = buckets.get(bound, 0) + int(sample.value)
        return cls(number, failed, seconds, tuple(sorted(buckets.items())))

    def __sub__(self, earlier: Self) -> Operations:
        before = dict(earlier.buckets)
        buckets = tuple((bound, count - before.get(bound, 0)) for bound, count in self.buckets)
        number, failed = self.number - earlier.number, self.failed - earlier.failed
        return Operations(number, failed, self.seconds - earlier.seconds, buckets)

    @property
    def mean_ms(self) -> float:
        return 1000 * self.seconds / self.number

    def quantile(self, share: float) -> str:
        """The bucket that a quantile falls into."""
        bound = next(bound for bound, count in self.buckets if count >= share * self.number)
        return f"<= {bound * 1000:g} ms"
