"""`python -m tests.demo.tenant --host ADDRESS`: a stand-in for a tenant, for a cluster on this machine, until Ctrl-C.

It serves one small agent, whose library does nothing, and writes the Secret and the DynaKube that name it for
`kubectl apply`. The address has to be one of this machine that nodes and pods of the cluster reach.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

import yaml

from oneagent.common import identifiers
from oneagent.common.dynakube.api import versions
from tests.fakes import packages, tenant

PORT: Final = 18080
FILE: Final = Path("build/tenant/demo.yaml")
NAMESPACE: Final = "dynatrace"
NAME: Final = "demo"
LABELS: Final = {"agent": "demo"}

_TOLD: Final = """\
A stand-in for a tenant serves version {version} at {url}, until Ctrl-C. In another terminal:

  kubectl apply -f {file}
  kubectl -n {namespace} wait dynakube/{name} --for=condition=Ready --timeout=2m
"""


def objects(api_url: str) -> list[dict[str, Any]]:
    """The token's Secret, and the DynaKube."""
    metadata = {"name": NAME, "namespace": NAMESPACE}
    mode = {"namespaceSelector": {"matchLabels": LABELS}}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"apiToken": tenant.TOKEN}},
        {
            "apiVersion": f"{identifiers.API_GROUP}/{versions.NEWEST}",
            "kind": "DynaKube",
            "metadata": metadata,
            "spec": {"apiUrl": api_url, "oneAgent": {"applicationMonitoring": mode}},
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.demo.tenant", description="Serve a stand-in for a tenant.")
    parser.add_argument("--host", required=True, help="address of this machine that nodes and pods reach")
    parser.add_argument("--port", type=int, default=PORT, help="port; 0: a free one")
    parser.add_argument("--file", type=Path, default=FILE, help="where the Secret and the DynaKube are written")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with (
        tempfile.TemporaryDirectory() as directory,
        tenant.Tenant(host=given.host, port=given.port, packages=Path(directory)) as serving,
    ):
        packages.build(Path(directory) / f"{packages.VERSION}.zip", library=packages.loadable())
        given.file.parent.mkdir(parents=True, exist_ok=True)
        given.file.write_text(yaml.safe_dump_all(objects(serving.api_url), sort_keys=False))
        told = {"version": packages.VERSION, "url": serving.api_url, "namespace": NAMESPACE, "name": NAME}
        print(_TOLD.format(file=given.file, **told), flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
