"""Address and credentials of the API server, from a file, the service account or `KUBECONFIG`.

lightkube reads them. Making a client of them belongs to it: a file may name certificates that do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import lightkube
import yaml
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User

from oneagent.common.kubernetes.errors import KubeconfigError

_T = TypeVar("_T")


def load(make: Callable[[SingleConfig, User], _T], path: Path | None, service_account: Path) -> _T:
    """Make something of the configuration; `KubeconfigError` names the place if it cannot be used.

    Without a file: in-cluster, then `KUBECONFIG`, then `~/.kube/config`.
    """
    place = path or "in-cluster, KUBECONFIG or ~/.kube/config"
    try:
        if path is None:
            config = lightkube.KubeConfig.from_env(service_account=service_account).get()
        else:
            config = lightkube.KubeConfig.from_file(path).get()
        if config is None:
            raise KubeconfigError(f"the kubeconfig {place} names no current context")
        user = config.user or User()
        return make(config._replace(user=user), user)
    except (
        lightkube.ConfigError,
        OSError,
        yaml.YAMLError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        # All but the first three come from a file that is YAML, but of something else.
        raise KubeconfigError(f"no usable API server configuration ({place}): {error}") from error
