"""Support archive: one file with everything for support, and no secrets.

    redaction     removes secrets from texts and objects
    collect       reads the contents
    report_page   what status and doctor say, as one page

Everything is redacted when it is added; there is no other way into the file. Secrets and ConfigMaps are listed by name
and keys only, and their values are never read. Each log is bounded in size, and so is the whole. The file is
readable by its owner only, and appears when it is complete.
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
    """An archive while it is written; `members` are the names in it."""

    def __init__(self, file: tarfile.TarFile, directory: str, now: float, max_bytes: int = 0) -> None:
        """`max_bytes` of contents are added, and no more; 0: no limit."""
        self._file, self._directory, self._now = file, directory, now
        self._max_bytes, self._bytes = max_bytes, 0
        self.members: list[str] = []
        self.problems: list[str] = []
        """Parts that could not be read."""

    def add(self, name: str, text: str) -> None:
        if self.is_full:
            self.problems.append(f"{name}: left out, the archive has its {self._max_bytes} bytes, see --max-bytes")
            return
        content = redaction.redact_text(text).encode(errors="replace")
        self._bytes += len(content)
        member = tarfile.TarInfo(f"{self._directory}/{name.translate(_NAME)}")
        member.size, member.mtime, member.mode = len(content), int(self._now), 0o600
        self._file.addfile(member, io.BytesIO(content))
        self.members.append(name)

    @property
    def is_full(self) -> bool:
        return 0 < self._max_bytes <= self._bytes

    def add_problems(self) -> None:
        """Add the list of what could not be read, whatever the archive has already."""
        self._max_bytes = 0
        if self.problems:
            self.add("problems.txt", "".join(f"{problem}\n" for problem in self.problems))


@contextlib.contextmanager
def create(target: Path, now: float, max_bytes: int = 0) -> Iterator[Archive]:
    """Create an archive, which is at the target only if the block succeeds; `OSError`."""
    descriptor, partial = tempfile.mkstemp(prefix=".oneagent-support-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as file:
            yield Archive(file, target.name.removesuffix(".tar.gz"), now, max_bytes)
        os.rename(partial, target)
    except BaseException:
        os.unlink(partial)
        raise
