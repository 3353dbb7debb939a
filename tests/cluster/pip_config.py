"""This machine's way to Python packages, for a build that sees nothing of this machine.

pip's settings come from files, from the environment and with paths of certificates in them. A build gets one
file with what says where packages are and how they are reached, and the certificates beside it; both as
secrets, which are there while a command of the build runs and in no layer.
"""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_WAY: Final = (
    *("index-url", "extra-index-url", "find-links", "no-index", "trusted-host"),
    *("proxy", "timeout", "default-timeout", "retries"),
)
_ENVIRONMENT: Final = ":env:"
_CERTIFICATES_THERE: Final = "/run/secrets/ca.crt"
_CERTIFICATES_HERE: Final = Path("/etc/ssl/certs/ca-certificates.crt")


def options(folder: Path) -> list[str]:
    """buildah's options that hand the way over; the folder keeps what they name during the build."""
    settings = _settings()
    certificates = _certificates(settings)
    way = configparser.RawConfigParser()
    way["global"] = {name: value for name, value in settings.items() if name in _WAY}
    options = [f"--secret=id=pip.conf,src={folder / 'pip.conf'}"]
    if certificates:
        way["global"]["cert"] = _CERTIFICATES_THERE
        options.append(f"--secret=id=ca.crt,src={certificates}")
    with (folder / "pip.conf").open("w") as file:
        way.write(file)
    return options + [f"--volume={found}:{found}:ro" for found in _folders(settings)]


def _settings() -> dict[str, str]:
    """What pip is set to here, the environment before any file."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True)
    found: dict[str, str] = {}
    # The environment comes last and outranks what was found before.
    for line in sorted(told.stdout.splitlines(), key=lambda line: line.startswith(_ENVIRONMENT)):
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2]] = ast.literal_eval(value)
    return found


def _certificates(settings: dict[str, str]) -> Path | None:
    """What pip here trusts, which is more than Python's own list where a proxy has a certificate of its own."""
    named = (settings.get("cert"), os.environ.get("REQUESTS_CA_BUNDLE"), os.environ.get("CURL_CA_BUNDLE"))
    candidates = [*(Path(path) for path in named if path), _CERTIFICATES_HERE]
    return next((path for path in candidates if path.is_file()), None)


def _folders(settings: dict[str, str]) -> list[Path]:
    """Folders of this machine that wheels are looked for in."""
    links = [Path(link) for link in settings.get("find-links", "").split()]
    return [link for link in links if link.is_absolute() and link.is_dir()]
