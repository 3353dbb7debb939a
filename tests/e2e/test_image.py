"""The image that the cluster runs: what it says of itself, what is in it, what it is made of, and its size."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster import images

_PROJECT: Final = tomllib.loads(Path("pyproject.toml").read_text())["project"]
_BILL: Final = "usr/share/sbom/oneagent-csi.cdx.json"
_LIMIT_BYTES: Final = 150_000_000


@dataclass(frozen=True, slots=True)
class Image:
    root: Path
    config: dict[str, Any]
    """What a container of it is started with."""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As the image's user, with its variables and no others."""
        variables = dict(entry.split("=", 1) for entry in self.config["Env"])
        program = next(filter(self._has, (f"{folder}/{command[0]}" for folder in variables["PATH"].split(":"))))
        inside = [shutil.which("chroot") or "chroot", f"--userspec={self.config['User']}", str(self.root), program]
        return subprocess.run(
            [*inside, *command[1:]], env=variables, capture_output=True, text=True, check=False, timeout=60
        )

    def _has(self, path: str) -> bool:
        return os.path.lexists(self.root / path.lstrip("/"))

    def files(self) -> Iterator[Path]:
        return (path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The archive that was built, unpacked."""
    root = tmp_path_factory.mktemp("image")
    # pytest's folders are nobody else's.
    root.chmod(0o755)
    with tarfile.open(images.built()[images.CSI]) as archive:
        (manifest,) = json.load(_member(archive, "manifest.json"))
        config = json.load(_member(archive, manifest["Config"]))
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=_member(archive, name)) as layer:
                layer.extractall(root, filter="fully_trusted")
    return Image(root, config["config"])


def _member(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    assert found is not None
    return found


@pytest.mark.parametrize("command", _PROJECT["scripts"])
def test_every_command_starts_as_nobody(image: Image, command: str) -> None:
    done = image.run(command, "--help")
    assert done.returncode == 0, done.stderr
    assert command in done.stdout


def test_it_says_what_it_is(image: Image) -> None:
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): text for name, text in image.config["Labels"].items() if prefix in name}
    assert labels["title"] == _PROJECT["name"]
    assert labels["version"] == _PROJECT["version"]
    assert labels["licenses"] == _PROJECT["license"]
    assert {"revision", "created", "source", "description"} <= set(labels)


def test_nobody_is_root_in_it(image: Image) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.config["User"])
    assert not [path for path in image.files() if path.stat().st_mode & 0o6000]
    writable = [path for path in image.root.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert writable == [image.root / "tmp"]


def test_nothing_in_it_builds_or_installs_or_runs_other_programs(image: Image) -> None:
    programs = {path.name for path in image.root.rglob("bin/*")} | {path.name for path in image.root.rglob("sbin/*")}
    assert {name for name in programs if not name.startswith("python")} == set(_PROJECT["scripts"])
    distributions = {_name(found) for found in _distributions(image)}
    assert not distributions & {"pip", "setuptools", "wheel", "hatchling", "grpcio-tools", "pytest"}
    assert not [path for path in image.files() if path.suffix in (".h", ".c", ".a")]


def test_its_list_has_every_distribution_and_every_library_of_the_base(image: Image) -> None:
    bill = json.loads((image.root / _BILL).read_text())
    about = bill["metadata"]["component"]
    listed = {each["bom-ref"]: each for each in (about, *bill["components"])}
    for found in _distributions(image):
        entry = listed.pop(f"pkg:pypi/{_name(found)}@{found.version}")
        assert (entry["version"], entry["purl"]) == (found.version, entry["bom-ref"])
        assert re.fullmatch(r"[0-9a-f]{64}", entry["hashes"][0]["content"])
        assert entry["licenses"][0] != {"license": {"name": "unknown"}}, entry["name"]
    assert not [name for name in listed if name.startswith("pkg:pypi/")]
    files = {each["name"]: each for entry in listed.values() for each in (entry, *entry.get("components", ()))}
    libraries = [path for path in image.files() if re.search(r"\.so(\.\d+)*$", path.name)]
    of_base = [path for path in libraries if "/python3" not in str(path.relative_to(image.root))]
    assert of_base
    for library in of_base:
        (digest,) = files["/" + str(library.relative_to(image.root))]["hashes"]
        assert digest["content"] == hashlib.sha256(library.read_bytes()).hexdigest()


def test_its_distributions_are_those_that_are_locked(image: Image) -> None:
    lock = Path("requirements-runtime.lock").read_text()
    locked = {f"{name}=={version}" for name, version in re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE)}
    ours = f"{_PROJECT['name']}=={_PROJECT['version']}"
    installed = {f"{_name(found)}=={found.version}" for found in _distributions(image)}
    assert installed - {ours} <= locked
    assert ours in installed


def test_it_is_small(image: Image, record_property: Callable[[str, object], None]) -> None:
    sizes = {path: path.stat().st_size for path in image.files()}
    size = sum(sizes.values())
    base = sum(size for path, size in sizes.items() if not path.is_relative_to(image.root / "opt"))
    record_property("image, unpacked", f"{size / 1e6:.1f} MB, of which Python and libraries {base / 1e6:.1f} MB")
    assert size <= _LIMIT_BYTES


def _distributions(image: Image) -> list[metadata.Distribution]:
    (site_packages,) = image.root.glob("opt/oneagent/lib/python3*/site-packages")
    return list(metadata.distributions(path=[str(site_packages)]))


def _name(distribution: metadata.Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.name).lower()
