"""Coverage: how many pods of this node should have an agent, and how many have one.

Counted at each scrape from the volumes in memory. A pod's author chooses the DynaKube that its volume names, so only
DynaKubes that the node knows become a label's value, and only so many pairs; all others are counted under empty labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from oneagent.common.injection import volume_attributes
from oneagent.common.prometheus import Collector, GaugeMetricFamily, Metric
from oneagent.csi_driver.metadata.states import VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord

MAX_PAIRS: Final = 200

_LABELS: Final = ("dynakube", "pod_namespace")
_REST: Final = ("", "")


class Coverage(Collector):
    """Collector of two gauges; without samples until `start`."""

    def __init__(self) -> None:
        self._volumes: Callable[[], Iterable[VolumeRecord]] = tuple
        self._dynakubes: Callable[[], Collection[str]] = tuple

    def start(self, volumes: Callable[[], Iterable[VolumeRecord]], dynakubes: Callable[[], Collection[str]]) -> None:
        """Count these volumes from now on; `dynakubes` returns the names that this node knows."""
        self._volumes, self._dynakubes = volumes, dynakubes

    def collect(self) -> Iterator[Metric]:
        eligible, monitored = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        known = self._dynakubes()
        for record in self._volumes():
            if record.mode != volume_attributes.MODE_APP:
                continue
            pair = (record.dynakube, record.pod_namespace)
            if record.dynakube not in known or (pair not in eligible and len(eligible) >= MAX_PAIRS):
                pair = _REST
            eligible[pair] += 1
            monitored[pair] += record.state == VolumeState.MOUNTED
        yield _gauge("oneagent_csi_eligible_pods", "Pods of this node that should have an agent.", eligible)
        yield _gauge("oneagent_csi_monitored_pods", "Those of them that have one.", monitored)


def _gauge(name: str, text: str, counts: Counter[tuple[str, str]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_LABELS)
    for pair, count in counts.items():
        family.add_metric(pair, count)
    return family
