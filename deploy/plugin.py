"""Builds `kubectl oneagent` as one file, and its manifest for krew: `python deploy/plugin.py [--uri URI]`.

The file is a zip with a first line that names Python (https://docs.python.org/3/library/zipapp.html): it needs Python
3.11 and kubectl, and nothing has to be installed. Everything in it is Python, since a machine's code can't be loaded
from a zip. The same sources make the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from oneagent.common import distribution, identifiers

ROOT: Final = Path(__file__).parents[1]
NAME: Final = "kubectl-oneagent"
LIBRARIES: Final = ("rich", "PyYAML")
_OWN: Final = (
    ("common", "oneagent/common"),
    ("operator", "oneagent/operator/cli"),
    ("operator", "oneagent/operator/certificates/settings.py"),
    ("operator", "oneagent/operator/certificates/__init__.py"),
    ("operator", "oneagent/operator/__init__.py"),
)
"""Source roots, and what of them the plugin imports."""
_LEFT_OUT: Final = ("oneagent/common/proto/",)
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_NO_URI: Final = f"https://{NAME}.invalid/{NAME}.tar.gz"
"""For `kubectl krew install --manifest=… --archive=…`, which loads nothing."""
_MAIN: Final = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("kubectl-oneagent: it needs Python 3.11 or newer, and python3 in the PATH is %d.%d" % sys.version_info[:2])
from oneagent.operator.cli.main import main

raise SystemExit(main())
"""


def build(target: Path, interpreter: str = "/usr/bin/env python3") -> None:
    """Write the plugin, which can be run."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(
            {**dict(_own_files()), **dict(_library_files()), "__main__.py": _MAIN.encode()}.items()
        ):
            member = zipfile.ZipInfo(name, _DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, data)
    target.write_bytes(f"#!{interpreter}\n".encode() + content.getvalue())
    target.chmod(0o755)


def build_archive(plugin: Path, target: Path) -> str:
    """Write the archive that krew unpacks, and return its SHA-256."""
    content = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=content, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for file, name, mode in ((plugin, NAME, 0o755), (ROOT / "LICENSE", "LICENSE", 0o644)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = file.stat().st_size, mode
            archive.addfile(member, io.BytesIO(file.read_bytes()))
    target.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def krew_manifest(uri: str, sha256: str) -> dict[str, Any]:
    """Return the manifest (https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/)."""
    platform = {
        "selector": {"matchExpressions": [{"key": "os", "operator": "In", "values": ["linux", "darwin"]}]},
        "uri": uri,
        "sha256": sha256,
        "files": [{"from": "*", "to": "."}],
        "bin": NAME,
    }
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "oneagent"},
        "spec": {
            "version": f"v{distribution.version()}",
            "shortDescription": "Inspect the OneAgents of a cluster",
            "description": (
                "Shows what needs attention in an installation of oneagent-csi, why a pod has its agent or has none, "
                "and writes an archive for support. Reads only.\n"
            ),
            "caveats": "Needs Python 3.11 or newer as python3 in the PATH.\n",
            "platforms": [platform],
        },
    }


def _own_files() -> Iterator[tuple[str, bytes]]:
    for root, part in _OWN:
        place = ROOT / root / part
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            name = file.relative_to(ROOT / root).as_posix()
            if not name.startswith(_LEFT_OUT):
                yield name, file.read_bytes()
    # A package without a module of its own is only found by its directory.
    yield "oneagent/", b""
    stem = identifiers.DISTRIBUTION.replace("-", "_")
    yield f"{stem}-{distribution.version()}.dist-info/METADATA", b"Metadata-Version: 2.1\n"


def _library_files() -> Iterator[tuple[str, bytes]]:
    """Yield the modules and licenses of the libraries, as they are installed."""
    for library in LIBRARIES:
        for file in importlib.metadata.files(library) or ():
            if file.suffix == ".py" or "license" in file.name.lower():
                yield file.as_posix(), Path(str(file.locate())).read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds kubectl oneagent as one file, and its manifest for krew.")
    parser.add_argument("--directory", type=Path, default=ROOT / "build", metavar="DIRECTORY", help="where to write")
    parser.add_argument("--uri", default=_NO_URI, metavar="URI", help="where the archive will be published")
    args = parser.parse_args()
    args.directory.mkdir(exist_ok=True)
    build(args.directory / NAME)
    sha256 = build_archive(args.directory / NAME, args.directory / f"{NAME}.tar.gz")
    (args.directory / "krew.yaml").write_text(yaml.safe_dump(krew_manifest(args.uri, sha256), sort_keys=False))


if __name__ == "__main__":
    main()
