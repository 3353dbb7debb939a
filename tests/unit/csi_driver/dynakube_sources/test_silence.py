"""The API server falls silent on the provisioner's connection."""

from __future__ import annotations

from pathlib import Path

from oneagent.common import backoff
from oneagent.common.kubernetes import list_watch
from oneagent.csi_driver.dynakube_sources import api_server
from tests.fakes import kube_api
from tests.fakes.relay import Relay
from tests.unit.csi_driver.dynakube_sources.following import eventually, following, manifest

PERIODS = list_watch.Periods(watch=3.0, quiet=1.0, spare=0.5)


def test_a_connection_that_dies_without_a_word_is_replaced_and_the_change_is_acted_on(tmp_path: Path) -> None:
    with kube_api.KubeApi() as api, Relay("127.0.0.1", int(api.url.rpartition(":")[2])) as relay:
        config = api.kubeconfig(tmp_path / "config")
        config.write_text(config.read_text().replace(api.url, f"http://127.0.0.1:{relay.port}"))
        source = api_server.KubernetesSource(kubeconfig=config, periods=PERIODS, retry=backoff.Backoff(0.02, 1))
        with following(source) as found:
            eventually(lambda: api.open_watches)
            relay.silence()
            api.put("dynakubes", manifest("a"))
            eventually(lambda: source.silent_seconds() > 1)
            found.until_names("a")
            assert source.silent_seconds() < PERIODS.silence()
        source.close()
    assert len(api.seen("dynakubes")) == 2
