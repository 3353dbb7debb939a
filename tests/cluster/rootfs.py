"""Root file systems of Debian packages, each one layer of an image.

Packages are unpacked and never configured, which takes seconds and a third of the space: nothing here is ever
upgraded, and the glibc finds its libraries without a cache. What only a package manager, a reader or another
machine wants is left out, and so is everything that tells where the packages came from: the sources are this
machine's own, which differ from place to place.
"""

from __future__ import annotations

import io
import os
import platform
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from tests.cluster import commands

PROGRAMS: Final = {"mmdebstrap": "mmdebstrap"}

_LEFT_OUT: Final = tuple(
    f"./{path}/"
    for path in (
        *("dev", "var", "etc/apt", "etc/hostname", "etc/resolv.conf"),
        *("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian"),
    )
)
_ADDED: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_NO_WAY: Final = "apt-get update"
"""The step that reads from the network first; mmdebstrap names it when it fails."""


def release() -> str:
    """The release of Debian that this machine runs, and so its sources have: `bookworm 12.11`."""
    found = platform.freedesktop_os_release()
    if found.get("ID") != "debian":
        raise commands.CommandUnavailableError("images are made of Debian's packages, and this machine is not Debian")
    return f"{found['VERSION_CODENAME']} {Path('/etc/debian_version').read_text().strip()}"


def write(layer: Path, packages: Sequence[str], log: Path) -> None:
    """Write a tar archive with these packages and what they depend on."""
    suite = release().split()[0]
    settings = layer.with_suffix(".apt")
    settings.write_text(_network_settings())
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(packages)}"]
    command += [f"--aptopt={settings}", suite, "-", *_sources()]
    with (
        log.open("ab") as messages,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=messages,
            env={**os.environ, "TMPDIR": str(layer.parent)},
            close_fds=False,
            umask=commands.UMASK,
            # When it fails it sends a signal to its whole process group, which is not to be ours.
            process_group=0,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            _filter(process.stdout, layer)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        error = commands.failure(command[0], process.returncode, log)
        raise (
            commands.CommandUnavailableError(f"Debian's packages can't be had: {error}")
            if _NO_WAY in str(error)
            else error
        )


def _sources() -> list[str]:
    """The files of this machine's apt that name Debian's own archives."""
    entries = _apt("apt-get", "indextargets", "--format=$(SOURCESENTRY)", "Created-By: Packages", "Origin: Debian")
    if not entries:
        raise commands.CommandUnavailableError("apt has no lists of Debian's packages: apt-get update")
    return sorted({entry.rpartition(":")[0] for entry in entries.splitlines()})


def _network_settings() -> str:
    """How this machine's apt reaches archives: proxies, certificates, what it thinks of dates."""
    lines = _apt("apt-config", "dump", "Acquire").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Acquire::IndexTargets"))


def _apt(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _filter(unpacked: IO[bytes], layer: Path) -> None:
    """Copy an archive that arrives in a stream. One that breaks off is its sender's error, not one of the copy."""
    with tarfile.open(layer, "w") as copy:
        try:
            with tarfile.open(fileobj=unpacked, mode="r|") as archive:
                for member in archive:
                    if not f"{member.name}/".startswith(_LEFT_OUT):
                        copy.addfile(member, archive.extractfile(member) if member.isreg() else None)
        except tarfile.ReadError:
            return
        for path, text in _ADDED.items():
            member = tarfile.TarInfo(path)
            member.size = len(text)
            copy.addfile(member, io.BytesIO(text.encode()))
