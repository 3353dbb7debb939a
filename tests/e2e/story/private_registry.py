"""Registry that wants a password, with the image of this checkout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.cluster import images
from tests.cluster.node import Node
from tests.e2e import helm
from tests.fakes import images as images_
from tests.fakes.registry import Registry

PATH: Final = "team/oneagent-csi"


@contextlib.contextmanager
def serving(place: Path, node: Node) -> Iterator[Registry]:
    """The registry, which containerd asks without TLS because it is on the node itself."""
    with Registry(place, password=True) as registry:
        # Another image of the same layers. Kubelet pulls it, and from then on asks each pod of an image that it has
        # pulled for credentials, by whatever name. The tests' own image is to stay one that was always there.
        registry.push(PATH, images_.of_archive(images.built()[images.CSI], registry="private"), helm.IMAGE["tag"])
        yield registry
    node.ctr("images", "remove", image(registry))


def image(registry: Registry) -> str:
    return f"{registry.host}/{PATH}:{helm.IMAGE['tag']}"
