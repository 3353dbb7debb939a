"""Images with an agent in them, and whatever else: made layer by layer, and pushed to a registry over its API."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import zstandard

from oneagent.common.agents import oneagent
from tests.fakes import packages

OCI: Final = "application/vnd.oci.image"
DOCKER: Final = "application/vnd.docker"
HERE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
"""The architecture of this machine, as images name it."""

_LAYERS: Final = {
    (False, ""): f"{OCI}.layer.v1.tar",
    (False, "gzip"): f"{OCI}.layer.v1.tar+gzip",
    (False, "zstd"): f"{OCI}.layer.v1.tar+zstd",
    (True, ""): f"{DOCKER}.image.rootfs.diff.tar",
    (True, "gzip"): f"{DOCKER}.image.rootfs.diff.tar.gzip",
    (True, "zstd"): f"{DOCKER}.image.rootfs.diff.tar.zstd",
}


@dataclass(frozen=True)
class Entry:
    """One thing in a layer; `kind` as in the tar."""

    name: str
    content: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    pax: Mapping[str, str] = field(default_factory=dict)


def directory(name: str, mode: int = 0o755) -> Entry:
    return Entry(name, mode=mode, kind=tarfile.DIRTYPE)


def link(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, target=target)


def hard_link(name: str, target: str) -> Entry:
    return Entry(name, kind=tarfile.LNKTYPE, target=target)


def whiteout(name: str) -> Entry:
    above, slash, last = name.rpartition("/")
    return Entry(f"{above}{slash}.wh.{last}")


def opaque(name: str) -> Entry:
    return Entry(f"{name}/.wh..wh..opq")


def tar(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.size, info.mode, info.type, info.linkname = len(entry.content), entry.mode, entry.kind, entry.target
            info.pax_headers = dict(entry.pax)
            archive.addfile(info, io.BytesIO(entry.content))
    return file.getvalue()


def compress(data: bytes, how: str = "gzip") -> bytes:
    if how == "gzip":
        return gzip.compress(data, 1, mtime=0)
    return zstandard.compress(data) if how == "zstd" else data


def agent(
    version: str = packages.VERSION, *, prefix: str = packages.NESTED, filler: int = 0, library: Path | None = None
) -> list[Entry]:
    """The entries of the small agent of `packages.build`."""
    with tempfile.TemporaryDirectory() as place:
        built = packages.build(Path(place) / "agent.zip", version, prefix=prefix, filler=filler, library=library)
        archive = zipfile.ZipFile(io.BytesIO(built.read_bytes()))
    with archive:
        return [
            directory(info.filename)
            if info.is_dir()
            else Entry(info.filename, archive.read(info), info.external_attr >> 16 & 0o777)
            for info in archive.infolist()
        ]


def of_zip(archive: Path, prefix: str = packages.NESTED) -> bytes:
    """A tar of what is in a zip."""
    with zipfile.ZipFile(archive) as opened:
        return tar(
            *(
                Entry(prefix + info.filename, opened.read(info), info.external_attr >> 16 & 0o777)
                for info in opened.infolist()
            )
        )


@dataclass(frozen=True)
class Image:
    """A manifest or an index, and everything that it refers to."""

    manifest: bytes
    media_type: str
    blobs: Mapping[str, bytes]
    manifests: tuple[Image, ...] = ()

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in json.loads(self.manifest)["layers"]]


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image(
    *tars: bytes, how: str | Sequence[str] = "gzip", docker: bool = False, architecture: str = "amd64", **fields: Any
) -> Image:
    """An image of these layers, the lowest first; `fields` change the manifest."""
    hows = [how] * len(tars) if isinstance(how, str) else how
    layers = [(compress(data, one), _LAYERS[docker, one]) for data, one in zip(tars, hows, strict=True)]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in tars]},
        }
    ).encode()
    return _with_manifest(config, layers, docker=docker, **fields)


def of_archive(archive: Path, **labels: str) -> Image:
    """The image of an archive as `docker save` writes it; labels make it another one of the same layers."""
    with tarfile.open(archive) as opened:

        def content(name: str) -> bytes:
            file = opened.extractfile(name)
            assert file
            return file.read()

        (listed,) = json.loads(content("manifest.json"))
        config = json.loads(content(listed["Config"]))
        config["config"]["Labels"] = {**(config["config"].get("Labels") or {}), **labels}
        layers = [(content(name), _LAYERS[False, ""]) for name in listed["Layers"]]
    return _with_manifest(json.dumps(config).encode(), layers)


def _with_manifest(
    config: bytes, layers: Sequence[tuple[bytes, str]], /, *, docker: bool = False, **fields: Any
) -> Image:
    """`layers` are blobs with their media types."""
    config_type = f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
    media_type = f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor(config, config_type),
        "layers": [descriptor(data, kind) for data, kind in layers],
        **fields,
    }
    blobs = {digest(data): data for data in (config, *(data for data, _ in layers))}
    return Image(json.dumps(manifest).encode(), media_type, blobs)


def index(*images: tuple[str, Image], docker: bool = False) -> Image:
    """An index of images, each with its platform such as `linux/amd64` or `linux/arm64/v8`."""
    listed = []
    for text, one in images:
        made_for = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
        listed.append({**descriptor(one.manifest, one.media_type), "platform": made_for})
    media_type = f"{DOCKER}.distribution.manifest.list.v2+json" if docker else f"{OCI}.index.v1+json"
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": listed}
    return Image(json.dumps(document).encode(), media_type, {}, tuple(one for _, one in images))


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def push(http: httpx.Client, url: str, image: Image, tag: str) -> str:
    """Push to `https://host/v2/path`; the digest. `http` brings what the registry wants to see."""
    for part in image.manifests:
        push(http, url, part, part.digest)
    for name, data in image.blobs.items():
        begun = http.post(f"{url}/blobs/uploads/")
        assert begun.status_code == 202, begun.text
        place = httpx.URL(url).join(begun.headers["Location"]).copy_merge_params({"digest": name})
        done = http.put(place, content=data, headers={"Content-Type": "application/octet-stream"})
        assert done.status_code == 201, done.text
    headers = {"Content-Type": image.media_type}
    answer = http.put(f"{url}/manifests/{tag}", content=image.manifest, headers=headers)
    assert answer.status_code == 201, answer.text
    return image.digest


def write_layout(directory: Path, *named: tuple[Image, dict[str, Any]]) -> Path:
    """Write an OCI image layout with these images; each dict is added to the image's entry in the index."""
    (directory / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    for image, _ in named:
        _write_blobs(directory, image)
    listed = [{**descriptor(image.manifest, image.media_type), **more} for image, more in named]
    fresh = directory / "index.json.new"
    fresh.write_text(json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": listed}))
    fresh.rename(directory / "index.json")
    return directory


def index_entry(name: str) -> dict[str, Any]:
    """Return the annotations of an index's entry for an image with this name."""
    return {"annotations": {"org.opencontainers.image.ref.name": name}}


def blob(directory: Path, digest: str) -> Path:
    """Where a layout has a blob."""
    return directory / "blobs" / digest.replace(":", "/")


def _write_blobs(directory: Path, image: Image) -> None:
    for data in (image.manifest, *image.blobs.values()):
        blob(directory, digest(data)).write_bytes(data)
    for part in image.manifests:
        _write_blobs(directory, part)


MINIMAL: Final = Entry(packages.NESTED + oneagent.PRELOAD_LIBRARY, b"\x7fELF", 0o755)
"""The least that is an agent."""
