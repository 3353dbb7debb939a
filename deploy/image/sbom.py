"""What an image is made of, as CycloneDX 1.6: `python3 sbom.py BASE REPORT… > oneagent-csi.cdx.json`.

`REPORT` is what `pip install --report` writes: of each distribution the name, the version, and the hash of the archive
that was installed; from which address it came is left out. Licences are read from the distributions themselves, which
PYTHONPATH has to name, since older releases of pip do not tell them. `BASE` is the listing of `root.py`: the files that
come from the base, by package where it has a package manager, and with a hash each.

The same image gives the same bytes: there is no time and no serial number in it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

OURS: Final = "oneagent-csi"

# What classifiers say, for the few distributions that have neither an expression nor a short text.
_CLASSIFIED: Final = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_LONGEST_NAME: Final = 40

Component = dict[str, Any]


def distributions(report: Mapping[str, Any]) -> Iterator[Component]:
    """What a report of pip says that was installed."""
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        archive = item["download_info"]["archive_info"]
        sha256 = archive.get("hashes", {}).get("sha256") or archive["hash"].removeprefix("sha256=")
        purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
            "licenses": [licence(metadata.metadata(name))],
            "purl": purl,
        }


def licence(distribution: metadata.PackageMetadata) -> dict[str, Any]:
    """An SPDX expression where there is one, otherwise the name that the distribution gives its licence."""
    for expression in distribution.get_all("License-Expression", ()):
        return {"expression": expression}
    for text in distribution.get_all("License", ()):
        if text and len(text) <= _LONGEST_NAME and "\n" not in text:
            return {"license": {"name": text}}
    for classifier in distribution.get_all("Classifier", ()):
        kind, _, name = classifier.rpartition(" :: ")
        if kind.startswith("License"):
            return {"license": {"id": _CLASSIFIED[name]} if name in _CLASSIFIED else {"name": name}}
    return {"license": {"name": "unknown"}}


def base(listing: Mapping[str, Mapping[str, str]]) -> Iterator[Component]:
    """The base's files, those of a package inside it."""
    packages: dict[str, Component] = {}
    for path, package in listing.items():
        file = {
            "type": "file",
            "bom-ref": f"file:{path}",
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(Path(path).read_bytes()).hexdigest()}],
        }
        if not package:
            yield file
            continue
        version = urllib.parse.quote(package["version"], safe=":")
        purl = f"pkg:deb/debian/{package['name']}@{version}?arch={package['architecture']}"
        found = packages.setdefault(
            purl,
            {
                "type": "library",
                "bom-ref": purl,
                "name": package["name"],
                "version": package["version"],
                "purl": purl,
                "components": [],
            },
        )
        found["components"].append(file)
    yield from packages.values()


def bom(components: Iterable[Component]) -> dict[str, Any]:
    """The whole document: our own distribution is what it is about, everything else a component."""
    found = sorted(components, key=lambda component: str(component["bom-ref"]))
    (ours,) = (component for component in found if component["name"] == OURS)
    python = f"pkg:generic/python@{platform.python_version()}"
    interpreter = {
        "type": "platform",
        "bom-ref": python,
        "name": "python",
        "version": platform.python_version(),
        "purl": python,
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**ours, "type": "container"}},
        "components": [interpreter, *(component for component in found if component is not ours)],
    }


def main() -> None:
    listing, *reports = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
    found = [*base(listing), *(component for report in reports for component in distributions(report))]
    json.dump(bom(found), sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
