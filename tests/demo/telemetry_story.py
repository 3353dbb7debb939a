"""The same driver with OpenTelemetry's agents: services of several languages, and one trace over all of them.

Programs, agents and library are real, and so are the volumes and the containers' files. Played are kubelet, by a
client that makes its calls, and the collector, which receives on loopback.
"""

from __future__ import annotations

import functools
import sys
import textwrap
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from oneagent.common.agents import opentelemetry
from oneagent.common.injection import volume_attributes
from oneagent.csi_driver.metadata import readonly
from tests.demo import applications, collector, telling
from tests.demo.applications import Application
from tests.demo.collector import Collector, Span
from tests.demo.demo_node import DemoNode
from tests.demo.programs import ProgramFailedError, Programs
from tests.fakes import ports

PACKAGE: Final = Path(__file__).parents[2] / "build/agent-package/opentelemetry.zip"
_TREE: Final = PACKAGE.with_name("tree") / "agent"
_NAME: Final = "shop"
_TOKEN: Final = "Bearer demo"
_START_SECONDS: Final = 120
_TRACE_SECONDS: Final = 60

_INJECTION: Final = """\
apiVersion: csi.oneagent.dynatrace.com/v1alpha1
kind: OpenTelemetryInjection
metadata: {{name: shop, namespace: dynatrace}}
spec:
  package: file://{package}
  exporter:
    endpoint: {endpoint}
    protocol: http/protobuf
    headersSecret: collector
    tls: {{configMapName: collector-ca, ca_file: ca.crt}}
  resourceAttributes: {{deployment.environment.name: demo}}
  env:
    - {{name: OTEL_METRICS_EXPORTER, value: none}}
    - {{name: OTEL_LOGS_EXPORTER, value: none}}
    - {{name: OTEL_BSP_SCHEDULE_DELAY, value: "100"}}
"""
_OBJECTS: Final = """\
---
apiVersion: v1
kind: Secret
metadata: {{name: collector, namespace: dynatrace}}
stringData: {{authorization: {token}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: collector-ca, namespace: dynatrace}}
data:
  ca.crt: |
{authority}
"""


class NoPackageError(Exception):
    """There is no package of agents to demonstrate with; says how to make it."""


class TelemetryStory(DemoNode):
    """One run below one folder; call `beginning`, `middle` and `end` in this order."""

    volume_context = f"agent={opentelemetry.KIND},dynakube={_NAME}"

    def __init__(self, folder: Path, programs: Programs, containers: Programs) -> None:
        if not PACKAGE.exists():
            raise NoPackageError("the package of agents is not built: make agent-package SKIP_MISSING=1")
        super().__init__(folder, programs)
        self._containers = containers
        self._collector = Collector(_TREE / "python/packages")
        images = folder / "images"
        images.mkdir()
        self._services = applications.find(_TREE, images)
        self._url = ""

    def beginning(self) -> None:
        telling.chapter("The node starts")
        self.start_driver()
        self.register()
        telling.step(f"a collector listens on {self._collector.endpoint}")

    def middle(self) -> None:
        telling.chapter("The OpenTelemetryInjection says which agents, and where their data goes")
        self._install()
        telling.chapter("The pods start, of images that know nothing of it")
        self._start_services()
        telling.chapter("A request")
        spans = self._request()
        self._show(spans)
        telling.chapter("What the node says: oneagent-csi status")
        self.show("status", expected=0)

    def end(self) -> None:
        self._containers.end()
        self._collector.close()
        self.put_away(*(service.name for service in self._services))

    def _install(self) -> None:
        text = _INJECTION.format(package=PACKAGE, endpoint=self._collector.endpoint)
        authority = textwrap.indent(self._collector.authority, " " * 4)
        (self.dynakubes / "shop.yaml").write_text(text + _OBJECTS.format(token=_TOKEN, authority=authority))
        telling.step("kubectl apply, so to speak:")
        telling.quote(text)
        name = opentelemetry.PROFILE.name_prefix + _NAME
        self.programs.until(
            lambda: any(row.name == name for row in readonly.read(self.data).dynakubes), "the provisioner has read it"
        )

    def _start_services(self) -> None:
        """Start the last service first: each one sends requests to the next."""
        for service in reversed(self._services):
            started, port = time.monotonic(), ports.free()
            self.kubelet.publish(service.name, timeout=_START_SECONDS, **_attributes(service))
            took = time.monotonic() - started
            if service is self._services[-1]:
                size = PACKAGE.stat().st_size >> 20
                telling.step(f"{size} MiB of agents are in the store; the first volume waited {took:.1f} s for them")
            program = self._containers.start_command(service.name, *self._command(service, port))
            self._containers.until(functools.partial(_listens, program.log), f"{service.name} listens", _START_SECONDS)
            self._url = f"http://127.0.0.1:{port}/{service.name}"
            seconds = time.monotonic() - started - took
            telling.step(
                f"pod {service.name:<6} {service.language:<8} volume after {took * 1000:,.1f} ms, "
                f"listens {seconds:.1f} s later"
            )

    def _command(self, service: Application, port: int) -> Sequence[str]:
        root = self.folder / f"{service.name}.root"
        root.mkdir()
        env = ["HOST=127.0.0.1", f"PORT={port}", f"HOSTNAME={service.name}", *service.env]
        if self._url:
            env.append(f"NEXT={self._url}")
        return (
            *("unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.demo.container"),
            *(f"--root={root}", f"--volume={self.kubelet.target(service.name)}", f"--name={service.name}"),
            f"--agent={opentelemetry.KIND}",
            *(f"--bind={bind}" for bind in service.binds),
            *(f"--env={variable}" for variable in env),
            *("--", *service.command),
        )

    def _request(self) -> list[Span]:
        with urllib.request.urlopen(self._url, timeout=30) as answer:
            text = answer.read().decode()
        telling.step(f"GET {self._url}: {answer.status}, by {', '.join(text.split())}")
        wanted = {service.name for service in self._services}
        deadline = time.monotonic() + _TRACE_SECONDS
        while time.monotonic() < deadline:
            self._containers.check()
            for spans in self._collector.traces().values():
                if wanted <= {span.resource.get("service.name", "") for span in spans if span.kind == "server"}:
                    time.sleep(1)  # for the callers' spans, which end last
                    return self._collector.traces()[spans[0].trace]
            time.sleep(0.05)
        raise ProgramFailedError(f"no trace over {wanted}, but {self._collector.traces()}")

    def _show(self, spans: list[Span]) -> None:
        roots = collector.tree(spans)
        if len(roots) != 1:
            raise ProgramFailedError(f"the trace has {len(roots)} beginnings: {spans}")
        if {span.authorization for span in spans} != {_TOKEN}:
            raise ProgramFailedError("the exporters' requests have not the header of the Secret")
        telling.step(f"one trace, {spans[0].trace}:")
        rows = [(lines + span.name, span) for lines, span in roots[0].walk()]
        width = max(len(name) for name, _ in rows)
        telling.quote(f"{'span':<{width}}  kind      service  pod      language      ms")
        telling.quote(_row(name.ljust(width), span) for name, span in rows)
        for span in spans:
            missing = [name for name in ("k8s.namespace.name", "k8s.container.name") if name not in span.resource]
            if missing:
                raise ProgramFailedError(f"{span.name} of {span.resource} lacks {missing}")


def _attributes(service: Application) -> dict[str, Any]:
    """The attributes by the webhook about a service's pod."""
    return {
        volume_attributes.AGENT: opentelemetry.KIND,
        volume_attributes.DYNAKUBE: _NAME,
        volume_attributes.CONTAINERS: service.name,
        f"{volume_attributes.IMAGE}{service.name}": f"registry.example.com/{service.name}:1",
        volume_attributes.BASE_POD_NAME: service.name,
        volume_attributes.WORKLOAD_KIND: "Deployment",
        volume_attributes.WORKLOAD_NAME: service.name,
    }


def _listens(log: Path) -> bool:
    return b"listening" in log.read_bytes()


def _row(name: str, span: Span) -> str:
    resource, took = span.resource, (span.end_ns - span.start_ns) / 1e6
    service, pod = resource.get("service.name", ""), resource.get("k8s.pod.name", "")
    return (
        f"{name}  {span.kind:<8}  {service:<7}  {pod:<7}  {resource.get('telemetry.sdk.language', ''):<8}  {took:6.1f}"
    )
