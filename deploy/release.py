"""Notes of a release, from CHANGELOG.md: `python deploy/release.py --tag vVERSION [--image IMAGE@DIGEST]`.

Fails unless the tag is the version of pyproject.toml, and CHANGELOG.md has a section with that version and its date. It
needs nothing but Python.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

_SECTION: Final = re.compile(
    r"^## \[(?P<version>[^\]]+)\] - (?P<date>\S+)\n(?P<text>.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE
)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class NotReadyError(Exception):
    """The tag can't be released."""


def notes(tag: str, version: str, changelog: str, image: str = "") -> str:
    """Return the notes; `NotReadyError`."""
    if tag != f"v{version}":
        raise NotReadyError(f"the tag {tag} is not v{version}, the version of pyproject.toml")
    sections = {found["version"]: found for found in _SECTION.finditer(changelog)}
    if version not in sections:
        raise NotReadyError(f"CHANGELOG.md has no section {version}: write it as `## [{version}] - DATE`")
    section = sections[version]
    if not _DATE.fullmatch(section["date"]):
        raise NotReadyError(
            f"the section {version} of CHANGELOG.md has no date, but {section['date']}: write YYYY-MM-DD"
        )
    head = f"Image: `{image}`\n\n" if image else ""
    return f"{head}{section['text'].strip()}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Prints the notes of a release.")
    parser.add_argument("--tag", required=True, help="the tag, v and the version")
    parser.add_argument("--image", default="", help="the image with its digest, for the first line")
    given = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    try:
        print(notes(given.tag, version, (ROOT / "CHANGELOG.md").read_text(), given.image), end="")
    except NotReadyError as error:
        print(f"not ready for a release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
