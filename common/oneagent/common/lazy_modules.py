"""Modules that libraries import and our processes seldom or never use, loaded at the first use of one of their names.

Memory is paid on every node: gRPC's asyncio half, protobuf's Python implementation or a metrics library's HTTP servers
are megabytes of each process. `importlib.util.LazyLoader` does not help, because the second `import` of a module
already loads it there. Here only a missing attribute does.
"""

from __future__ import annotations

import importlib.machinery
import sys
import threading
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from importlib.abc import Loader

PROTOBUF: Final = (
    # Its implementation in Python, beside the one in C that is used, and formats that are not.
    "google.protobuf.internal.python_message",
    "google.protobuf.internal.well_known_types",
    "calendar",
)
GRPC: Final = ("asyncio", "grpc.aio", "grpc_health.v1._async")
"""The half for asyncio."""
PROMETHEUS: Final = ("prometheus_client",)
"""See `prometheus`."""
HTTP: Final = (
    # Its other half for asyncio, HTTP/2, names that are not ASCII, and the types of files that are sent.
    "anyio",
    "anyio.abc",
    "anyio.streams.tls",
    "h2.connection",
    "h2.events",
    "idna",
    "mimetypes",
    "truststore",
)

KUBERNETES: Final = (
    # The synchronous client, which comes with the one for asyncio, and what neither needs in a cluster: 9 MiB.
    "kubernetes.client",
    "kubernetes.config",
    "kubernetes.dynamic",
    "kubernetes.informer",
    "kubernetes.leaderelection",
    "kubernetes.stream",
    "kubernetes.utils",
    "kubernetes.watch",
    "kubernetes.aio.config",
    "kubernetes.aio.dynamic",
    "kubernetes.aio.leaderelection",
    "kubernetes.aio.stream",
    "kubernetes.aio.watch",
)


class _LazyModule(types.ModuleType):
    """A module without content, which loads it when a name of it is missing."""

    def __getattr__(self, name: str) -> Any:
        # The import system itself looks for such names.
        if name.startswith("__"):
            raise AttributeError(name)
        _load(self)
        return types.ModuleType.__getattribute__(self, name)


class _LazyLoader:
    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.lock = threading.RLock()
        self.is_done = False

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _LazyModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Leave the content for later."""


class _Finder:
    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LazyLoader(spec.loader)  # type: ignore[assignment]
        return spec


def _load(module: _LazyModule) -> None:
    """Load the content of a module; wait if another thread does, go on if this thread is at it."""
    lazy = module.__loader__
    if not isinstance(lazy, _LazyLoader):
        return  # Another thread has just loaded it.
    with lazy.lock:
        if lazy.is_done:
            return
        lazy.is_done = True
        lazy.loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = lazy.loader
        module.__class__ = types.ModuleType  # pyright: ignore[reportAttributeAccessIssue] - as `importlib.util` does


def postpone(*names: str) -> None:
    """Postpone the loading of these modules of Python source, in this process; those that are loaded stay loaded."""
    sys.meta_path.insert(0, _Finder(frozenset(names)))


def is_postponed(name: str) -> bool:
    """Return whether a module was imported, and its content not loaded."""
    return isinstance(sys.modules.get(name), _LazyModule)
