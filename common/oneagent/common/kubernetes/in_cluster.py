"""The connection to the API server that a pod's service account gives: three files and two variables.

Reading them here costs nothing. lightkube, for kubeconfig files, costs several MiB in each process.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from oneagent.common.kubernetes import errors


@dataclass(frozen=True, slots=True)
class InCluster:
    url: str
    tls: ssl.SSLContext
    namespace: str
    """The pod's own."""
    token_file: Path

    def authorization(self) -> str:
        """Return the header's value. To be read for each request: kubelet renews the token; `OSError`."""
        return f"Bearer {self.token_file.read_text().strip()}"


def load(service_account: Path) -> InCluster | None:
    """Return the connection; None outside of a pod. `KubeconfigError` if a part of it is missing."""
    token, namespace = service_account / "token", service_account / "namespace"
    if not (token.exists() and namespace.exists()):
        return None
    try:
        host, port = (os.environ[f"KUBERNETES_SERVICE_{name}"] for name in ("HOST", "PORT"))
        tls = ssl.create_default_context(cafile=str(service_account / "ca.crt"))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return InCluster(f"https://{address}", tls, namespace.read_text().strip(), token)
    except (OSError, LookupError) as error:  # A certificate that cannot be read is an OSError, too.
        raise errors.KubeconfigError(f"no usable API server configuration (in-cluster): {error!r}") from error
