"""Start OpenTelemetry's agent in a process of Python, then run the `sitecustomize` that this one hides.

The preload library puts this directory, which is for one C library, at the beginning of `PYTHONPATH`. The packages
come at the end of `sys.path`, so that an application's own packages are used wherever it has them. Each Python 3
reads this file, also those that have no agent in the package, so nothing here is newer than Python 3.4.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

_OWN = os.path.dirname(os.path.abspath(__file__))


def _start():
    native = os.path.join(_OWN, ".".join(map(str, sys.version_info[:2])))
    # gRPC would need its native library for each version; the exporter in the package speaks HTTP.
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if not os.path.isdir(native) or protocol != "http/protobuf":
        return
    os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol
    sys.path += [native, os.path.join(os.path.dirname(_OWN), "packages")]
    try:
        from opentelemetry.instrumentation.auto_instrumentation import initialize  # pyright: ignore[reportMissingImports]

        initialize()
    except Exception:  # noqa: BLE001, S110 - whatever it is, the application starts without its agent
        pass


def _run_hidden():
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec and spec.loader:
        sys.modules["sitecustomize"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _OWN]
_start()
_run_hidden()
