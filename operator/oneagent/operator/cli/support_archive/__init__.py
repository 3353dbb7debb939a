"""One file with all that somebody needs who helps from afar, and no secret in it.

    redaction     what is taken out of texts and objects
    collect       what is in it, and how it is come by

Everything that is written goes through the redaction here; there is no other way into the file. Secrets and ConfigMaps
are in it by name and keys only, and their values are not even asked for. Each log is bounded in size. The file is its
owner's only, and appears when it is complete.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oneagent.operator.cli.support_archive import redaction

_NAME: Final = str.maketrans({character: "_" for character in '\\:*?"<>|\0'})


class Archive:
    """It is being written; `members` are the names that are in it."""

    def __init__(self, file: tarfile.TarFile, folder: str, now: float) -> None:
        self._file, self._folder, self._now = file, folder, now
        self.members: list[str] = []
        self.problems: list[str] = []
        """What could not be had."""

    def add(self, name: str, text: str) -> None:
        content = redaction.text(text).encode(errors="replace")
        member = tarfile.TarInfo(f"{self._folder}/{name.translate(_NAME)}")
        member.size, member.mtime, member.mode = len(content), int(self._now), 0o600
        self._file.addfile(member, io.BytesIO(content))
        self.members.append(name)


@contextlib.contextmanager
def written(target: Path, now: float) -> Iterator[Archive]:
    """An archive that is at the target once the block has ended well, and nowhere otherwise; `OSError`."""
    descriptor, partial = tempfile.mkstemp(prefix=".oneagent-support-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as file:
            yield Archive(file, target.name.removesuffix(".tar.gz"), now)
        os.rename(partial, target)
    except BaseException:
        os.unlink(partial)
        raise
