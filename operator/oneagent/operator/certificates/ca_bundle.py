"""The CAs of the package server in a ConfigMap, for the provisioners of nodes.

The webhook's Secret has the same bundle, but beside the webhook's key, and kubelet may read the whole Secret that a pod
of its node mounts. The chart creates this ConfigMap without data if nodes download from the package server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from oneagent.common import logs
from oneagent.common.kubernetes.errors import ApiError
from oneagent.operator import api
from oneagent.operator.certificates import cluster_state, x509

log = logging.getLogger(__name__)

NAME: Final = "oneagent-packages-ca"
KEY: Final = "ca.crt"

_CHECK_SECONDS: Final = 300.0
_RETRY_SECONDS: Final = 10.0


class Store(Protocol):
    """The part of `api.Api` that is used here."""

    async def find(self, resource: api.Resource, name: str, namespace: str = "") -> api.Object | None: ...
    async def merge(
        self, resource: api.Resource, name: str, patch: Mapping[str, Any], namespace: str = ""
    ) -> api.Object: ...


class BundlePublisher:
    """`reconcile` is a periodic task, woken by a change of the CA's Secret."""

    def __init__(self, store: Store, namespace: str, authority_secret: str) -> None:
        self._store, self._namespace, self._authority_secret = store, namespace, authority_secret

    async def reconcile(self) -> float:
        """Write the trusted CAs into the ConfigMap, if it exists; return the seconds until the next run."""
        try:
            config_map = await self._store.find(api.CONFIG_MAPS, NAME, self._namespace)
            if config_map is None:
                return _CHECK_SECONDS
            secret = await self._store.find(api.SECRETS, self._authority_secret, self._namespace)
            bundle = x509.bundle(cluster_state.record(secret).trusted).decode()
            if bundle and (config_map.get("data") or {}).get(KEY) != bundle:
                await self._store.merge(api.CONFIG_MAPS, NAME, {"data": {KEY: bundle}}, self._namespace)
                log.info("package server's CAs published", extra=logs.fields(config_map=NAME))
        except ApiError as error:
            log.warning("package server's CAs not published", extra=logs.fields(config_map=NAME, reason=error))
            return _RETRY_SECONDS
        return _CHECK_SECONDS
