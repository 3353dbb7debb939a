"""Archives of images with one layer, as `docker save` writes them: what `ctr` imports and buildah pulls."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write(archive: Path, reference: str, layer: Path, command: Sequence[str]) -> None:
    """Write the image that has this tar archive as its only layer, and runs this command."""
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Cmd": list(command), "Env": [_PATH]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        # buildah builds on no image whose history doesn't explain its layers.
        "history": [{"comment": "the root file system"}],
    }
    name = hashlib.sha256(_json(config)).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": [reference], "Layers": [f"{digest}.tar"]}]
    with tarfile.open(archive, "w") as image:
        _add(image, f"{name}.json", _json(config))
        image.add(layer, f"{digest}.tar")
        _add(image, "manifest.json", _json(manifest))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _add(image: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    image.addfile(member, io.BytesIO(content))
